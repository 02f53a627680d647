"""20,000 X-rays with kills in between, and the rates of docs/archives.md. Long: `make soak-score`."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from firmware_bridge.bundle import open_bundle
from firmware_bridge.decode import decode
from firmware_bridge.errors import ImageError
from firmware_bridge.shipped import shipped_bundle
from tests.toolkit.archive.conftest import paths_of, rows_of, unreadable_of, workers_of
from toolkit.archive.run import ScoreOptions, score_archive

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.soak
COUNT = int(os.environ.get("CXR_EDGE_SOAK_ARCHIVE", "20000"))
KILLS = int(os.environ.get("CXR_EDGE_SOAK_ARCHIVE_KILLS", "8"))
RATE_COUNT = int(os.environ.get("CXR_EDGE_SOAK_ARCHIVE_RATE", "2000"))
ROUNDS = int(os.environ.get("CXR_EDGE_SOAK_ARCHIVE_ROUNDS", "3"))
WAYS = (("local, 1", "local", 1), ("local, all", "local", None), ("ray, all", "ray", None))


def linked(folder: Path, xrays: list[Path], count: int) -> Path:
    """An archive of `count` X-rays: links, 500 in a folder."""
    for number in range(count):
        link = folder / f"{number // 500:03d}" / f"{number:06d}{xrays[number % len(xrays)].suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(xrays[number % len(xrays)])
    return folder


def small(big_data: Path) -> list[Path]:
    return sorted((big_data / "kermany" / "images").iterdir()) + sorted((big_data / "nih" / "images").iterdir())


def is_picture(path: Path) -> bool:
    return path.suffix in (".jpeg", ".jpg", ".png")


def is_plain(path: Path) -> bool:
    return "j2k" not in path.name and "jpegls" not in path.name


def resident_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next((line for line in text.splitlines() if line.startswith("VmRSS")), "VmRSS: 0").split()[1]) / 1e3


def test_killed_between(big_data: Path, tmp_path: Path, out: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    archive = linked(tmp_path / "archive", small(big_data), COUNT)
    kills = {"run": 0, "worker": 0}
    memory: list[float] = []  # MB, of the process that lists and writes
    begun_s = time.monotonic()
    while True:
        run = start(archive, "--out", out, "--commit-every", "1", "--json")
        parts, due_s = len(list(out.glob("part-*"))), 0.0
        while run.poll() is None:
            time.sleep(0.25)
            workers = workers_of(run.pid)
            if len(list(out.glob("part-*"))) == parts or not workers:
                continue  # it starts, or has just been hit
            if held := resident_mb(run.pid):
                memory.append(held)
            due_s = due_s or time.monotonic() + random.uniform(0.3, 2)  # after a part more is written
            if time.monotonic() < due_s or sum(kills.values()) >= KILLS:
                continue
            parts, due_s = len(list(out.glob("part-*"))), 0.0
            if random.random() < 0.5:
                os.kill(random.choice(workers), signal.SIGKILL)
                kills["worker"] += 1
            else:
                run.kill()
                kills["run"] += 1
                break
        told, errors = run.communicate()
        if run.returncode != -signal.SIGKILL:
            break
    assert run.returncode == 0, errors
    paths, unreadable = paths_of(out), [row["path"] for row in unreadable_of(out)]
    everything = {str(path.relative_to(archive)) for path in archive.rglob("*") if not path.is_dir()}
    twice = len(paths) + len(unreadable) - len({*paths, *unreadable})
    missing = len(everything - {*paths, *unreadable})
    sys.stdout.write(
        f"\n{COUNT} X-rays, kills {kills}, {time.monotonic() - begun_s:.0f} s, load {os.getloadavg()[0]:.0f}: "
        f"{twice} twice, {missing} missing, {len(unreadable)} unreadable; last run {told.strip()}; "
        f"memory after the first rows {memory[0]:.0f} MB, at the end {memory[-1]:.0f} MB\n"
    )
    assert (twice, missing, unreadable) == (0, 0, [])
    assert sum(kills.values()) >= 5


def bare_loop(paths: list[Path]) -> tuple[float, float]:
    """Seconds of the wall and of the processor for the same work in one process, without anything around it."""
    with open_bundle(shipped_bundle()) as bundle:
        scorer = bundle.scorer(threads=1)
    start_s, start_cpu_s = time.monotonic(), time.process_time()
    for path in paths:
        try:
            data = path.read_bytes()
            hashlib.sha256(data).hexdigest()
            scorer.score_decoded(decode(data, min_side_px=scorer.preprocessing.decode_min_side_px))
        except ImageError:
            continue
    return time.monotonic() - start_s, time.process_time() - start_cpu_s


def children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("kind", ["small", "originals", "dicom"])
def test_rates(kind: str, big_data: Path, tmp_path: Path) -> None:
    """Each round: the bare loop, local with one worker and with all, Ray with all; ratios within the round."""
    import cv2

    cv2.setNumThreads(1)
    xrays, count = {
        "small": (small(big_data), RATE_COUNT),
        "originals": (
            sorted(path for path in (big_data / "originals").rglob("*") if is_picture(path)),
            RATE_COUNT // 5,
        ),
        # Those that are decoded in the worker; for JPEG 2000 and JPEG-LS a process of low priority is waited for.
        "dicom": (sorted(filter(is_plain, (big_data / "dicom" / "chest").iterdir())), RATE_COUNT // 5),
    }[kind]
    paths = [xrays[number % len(xrays)] for number in range(count)]
    names = tmp_path / "list.parquet"
    pq.write_table(pa.table({"path": [f"{path.parent}/.//{n}/../{path.name}" for n, path in enumerate(paths)]}), names)
    ways: dict[str, list[dict[str, float]]] = {}
    scores: dict[str, list[object]] = {}
    for turn in range(ROUNDS):
        wall_s, cpu_s = bare_loop(paths)
        ways.setdefault("bare loop", []).append({"per_s": count / wall_s, "cpu_ms": cpu_s / count * 1e3})
        for name, engine, workers in (
            ("local, 1", "local", 1),
            ("local, all", "local", None),
            ("ray, all", "ray", None),
        ):
            out = tmp_path / f"{turn}-{name}.parquet"
            before_s = children_cpu_s()
            done = score_archive(str(names), out, ScoreOptions(engine=engine, workers=workers))
            rows = rows_of(out)
            # From the first score to the last: the start of Ray is not what a long run is made of.
            moments = sorted(row["scored_at"].timestamp() for row in rows)
            span_s = moments[-1] - moments[0]
            used = {"per_s": len(moments) / span_s, "driver_us": done.driver_cpu_s / count * 1e6}
            if engine == "local":
                used["cpu_ms"] = (children_cpu_s() - before_s + done.driver_cpu_s) / count * 1e3
            ways.setdefault(name, []).append(used)
            scores.setdefault(engine, [(row["path"], row["probability"], row["logit"], row["reason"]) for row in rows])
    assert scores["ray"] == scores["local"]
    lines = [f"\n{kind}: {count} X-rays of {len(xrays)}, load {os.getloadavg()[0]:.0f}, {os.cpu_count()} cores"]
    for name, rounds in ways.items():
        ratios = [one["per_s"] / bare["per_s"] for one, bare in zip(rounds, ways["bare loop"], strict=True)]
        medians = {key: round(statistics.median(one[key] for one in rounds), 3) for key in rounds[0]}
        lines.append(f"{name:>10}: {json.dumps(medians)}, bare loop = 1: {[round(ratio, 2) for ratio in ratios]}")
    sys.stdout.write("\n".join(lines) + "\n")
