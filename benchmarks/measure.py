"""The run: AUROC, cold starts, then everybody in turns, X-ray by X-ray and by the folder. One run, one report."""

from __future__ import annotations

import os
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contenders import LITE0, OURS, Contender
from benchmarks.files import HeldOut
from benchmarks.remote import Start, cold, running
from calibration.bootstrap import patient_bootstrap
from calibration.metrics import auroc
from firmware_bridge.result import NOTICE
from toolkit.benchmark.machine import machine
from toolkit.benchmark.stopwatch import FOLDER, SCORE, Lap, take_folder_turns, take_turns
from toolkit.progress import progress

SCHEMA = 1
STAGES = ("decode", "lungs", "preprocess", "infer", SCORE, FOLDER)
COMPARED = ("infer", SCORE, FOLDER)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        contenders: who.
        pythons: of each environment that there is; a contender without one is left out.
        files: the folder of model files.
        preprocessing: of each network, as a manifest has it.
        images: X-rays that are timed: JPEG or PNG, which the naive ways can read.
        held_out: X-rays that are judged by.
        threads: of the runtimes.
        rounds: turns of each contender.
        starts: cold starts of each contender, after one that fills the disk cache.
    """

    contenders: Sequence[Contender]
    pythons: Mapping[str, Path]
    files: Path
    preprocessing: Mapping[str, Mapping[str, Any]]
    images: Sequence[Path]
    held_out: HeldOut
    threads: Sequence[int] = (1, 2)
    rounds: int = 5
    starts: int = 3

    def begun(self) -> list[Start]:
        """Every contender with every number of threads."""
        return [
            Start(one, self.pythons[one.environment], self.files, self.preprocessing.get(one.network, {}), threads)
            for one in self.contenders
            if one.environment in self.pythons
            for threads in self.threads
        ]


@dataclass(slots=True)
class Row:
    """One contender's figures with one number of threads.

    Attributes:
        name: its own.
        network: the one that it is compared within.
        threads: of its runtime.
        environment: what is installed for it.
        file_bytes: of its model; 0 where it builds its own.
        stages_ms: stage -> {"p50", "p95"}.
        ratios: stage -> our int8's time as a share of this one's, in the same rounds, with the same threads.
        first_result_s: from the start of the process to its first score.
        peak_bytes: the most memory in the whole run.
        auroc: "value", "low", "high" on the held-out X-rays; None where the weights are random.
    """

    name: str
    network: str
    threads: int
    environment: str
    file_bytes: int = 0
    stages_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    first_result_s: float | None = None
    peak_bytes: int = 0
    auroc: dict[str, float | None] | None = None


def measure(plan: Plan, *, package_bytes: Mapping[str, int], notes: Sequence[str]) -> dict[str, Any]:
    """Measure, and hand back the report as plain values.

    Args:
        plan: what.
        package_bytes: size of each environment.
        notes: what was left out.

    Raises:
        ModelError: a contender failed.
    """
    before = machine()
    starts = plan.begun()
    rows = [Row(s.contender.name, s.contender.group, s.threads, s.contender.environment) for s in starts]
    areas = _areas(starts, plan.held_out)
    first = _cold_starts(plan, starts)
    with ExitStack() as stack:
        remotes = [stack.enter_context(running(start)) for start in progress(starts, "contenders loaded")]
        rounds = progress(range(plan.rounds), "rounds, X-ray by X-ray")
        laps = take_turns(remotes, plan.images, rounds)
        take_folder_turns(remotes, laps, plan.images, progress(range(plan.rounds), "rounds, the folder at once"))
        for row, remote, lap in zip(rows, remotes, laps, strict=True):
            row.peak_bytes = remote.peak_bytes()
            row.stages_ms = _stages(lap)
            file = plan.files / remote.start.contender.file
            row.file_bytes = sum(path.stat().st_size for path in _parts(file))
        _compare(rows, laps)
    for row in rows:
        row.auroc = areas.get(row.name) if row.network == LITE0 else None
        row.first_result_s = first.get((row.name, row.network)) if row.threads == min(plan.threads) else None
    return {
        "schema": SCHEMA,
        "notice": NOTICE,
        "machine": before,
        "load_average_end": round(os.getloadavg()[0], 2),
        "images": len(plan.images),
        "rounds": plan.rounds,
        "held_out": len(plan.held_out.positive),
        "package_bytes": dict(package_bytes),
        "rows": [asdict(row) for row in rows],
        "notes": list(notes),
    }


def _cold_starts(plan: Plan, starts: Sequence[Start]) -> dict[tuple[str, str], float]:
    """Median seconds to the first result, by name and network, with the fewest threads; in turns."""
    fewest = [start for start in starts if start.threads == min(plan.threads)]
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for turn in progress(range(plan.starts + 1), "cold starts"):
        for start in fewest:
            took_s, _ = cold(start, plan.images[0])
            if turn:  # the first reads from the disk, and compiles byte code
                seconds[start.contender.name, start.contender.group].append(took_s)
    return {key: statistics.median(values) for key, values in seconds.items()}


def _areas(starts: Sequence[Start], held_out: HeldOut) -> dict[str, dict[str, float | None]]:
    """AUROC of each contender of the trained network, in processes whose memory and time nobody measures."""
    trained = {one.contender.name: one for one in starts if one.contender.network == LITE0}
    areas = {}
    for name, start in progress(list(trained.items()), "AUROC"):
        with running(start) as remote:
            logits = remote.logits(held_out.file)
        areas[name] = patient_bootstrap(auroc, held_out.positive, logits, held_out.patients).to_json()
    return areas


def _compare(rows: Sequence[Row], laps: Sequence[Lap]) -> None:
    """Fill in `ratios`, where our int8 file ran in the same group with the same threads."""
    ours = {(r.network, r.threads): lap for r, lap in zip(rows, laps, strict=True) if r.name == OURS}
    for row, lap in zip(rows, laps, strict=True):
        mine = ours.get((row.network, row.threads))
        if mine is not None and row.name != OURS:
            row.ratios = {stage: mine.ratio_to(lap, stage) for stage in COMPARED}


def _stages(lap: Lap) -> dict[str, dict[str, float]]:
    return {
        stage: {"p50": lap.percentile_ms(stage, 50), "p95": lap.percentile_ms(stage, 95)}
        for stage in STAGES
        if stage in lap.stages
    }


def _parts(file: Path) -> Iterator[Path]:
    """A model's file, and OpenVINO's weights beside it."""
    for path in (file, file.with_suffix(".bin")):
        if path.is_file() and (path == file or file.suffix == ".xml"):
            yield path
