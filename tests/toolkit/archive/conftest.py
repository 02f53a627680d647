"""An archive of real X-rays, and what `cxr-edge score` wrote of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toolkit.archive.run import ScoreOptions, ScoreSummary, score_archive

COMMAND = (sys.executable, "-m", "toolkit.cli.main", "score")


def rows_of(out: Path) -> list[dict[str, Any]]:
    """All rows of a dataset as any Arrow reader sees them, by path."""
    import pyarrow.dataset as ds

    return sorted(ds.dataset(out, format="parquet").to_table().to_pylist(), key=lambda row: row["path"])


def unreadable_of(out: Path) -> list[dict[str, Any]]:
    folder = out / "_unreadable.parquet"
    return rows_of(folder) if folder.is_dir() else []


def paths_of(out: Path) -> list[str]:
    return [row["path"] for row in rows_of(out)]


@pytest.fixture
def archive(samples: Path, tmp_path: Path) -> Path:
    """Twelve X-rays in folders, two of them DICOM with names as on a DICOM medium."""
    root = tmp_path / "archive"
    for number, xray in enumerate(sorted((samples / "chest_xray").rglob("*.jpg"))[:10]):
        target = root / f"2026/{number % 3}" / xray.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(xray, target)
    (root / "DICOM").mkdir()
    for name, xray in zip(("IM000001", "1.2.840.1"), sorted((samples / "dicom").glob("*.dcm")), strict=True):
        shutil.copyfile(xray, root / "DICOM" / name)
    return root


@pytest.fixture
def many(archive: Path) -> Path:
    """The same with 1,200 more: links to its X-rays."""
    xrays = sorted(archive.rglob("*.jpg"))
    (archive / "more").mkdir()
    for number in range(1200):
        (archive / "more" / f"{number:04d}.jpg").symlink_to(xrays[number % len(xrays)])
    return archive


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results.parquet"


@pytest.fixture
def score(out: Path) -> Callable[..., ScoreSummary]:
    def score(where: object, /, **options: Any) -> ScoreSummary:
        return score_archive(str(where), out, ScoreOptions(**{"workers": 0, **options}))

    return score


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `cxr-edge score` as a process of its own; whatever is left of it at the end is ended."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            preexec_fn=os.setpgrp,  # a group of its own, as a shell gives it: for Ctrl-C
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def workers_of(pid: int) -> list[int]:
    """The processes that a run started to score; none of them where one ends in this moment."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except OSError:
        return []
