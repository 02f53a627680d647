"""How much of the machine's speed the whole agent keeps, what it takes when nothing comes, and how fast it is there.

The other side is a bare loop: the same decoding and inference in two threads, with neither journal nor claims. Both
score the same files, each in a fresh process, in turns.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firmware_bridge.errors import InputError, ResourceError
from firmware_bridge.result import NOTICE

_LIMIT_S = 1800.0
_START_S = 60.0
_SETTLED_AGE_S = 3600.0
_SOI, _COM = b"\xff\xd8", b"\xff\xfe"


@dataclass(frozen=True, slots=True)
class AgentPlan:
    """What to measure.

    Attributes:
        bundle: what scores.
        images: the folder whose JPEGs are used, with its subfolders.
        count: so many files; each JPEG is copied as often as it takes, told apart by a comment.
        rounds: turns of agent and bare loop.
        idle_s: how long the agent is watched while nothing comes.
    """

    bundle: Path
    images: Path
    count: int = 300
    rounds: int = 3
    idle_s: float = 30.0


@dataclass(frozen=True, slots=True)
class AgentFigures:
    """One run's figures. `ratio` is the median of agent over bare loop within each round."""

    agent_per_s: float
    bare_per_s: float
    ratio: float
    ratios: tuple[float, ...]
    idle_core_share: float
    rss_bytes: int
    cold_start_s: float
    files: int
    file_bytes: int
    cores: int

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"schema": 1, "notice": NOTICE, "agent": asdict(self)}

    def render(self) -> str:
        """As lines for people."""
        rows = {
            "agent, results per second": f"{self.agent_per_s:.1f}",
            "bare loop, results per second": f"{self.bare_per_s:.1f}",
            "ratio": f"{self.ratio:.3f}   (rounds: {', '.join(f'{one:.3f}' for one in self.ratios)})",
            "idle, share of a core": f"{self.idle_core_share:.2%}",
            "resident memory": f"{self.rss_bytes / 1e6:.0f} MB",
            "start of the process to first result": f"{self.cold_start_s:.2f} s",
            "files": f"{self.files} of {self.file_bytes / 1e3:.0f} kB on average, {self.cores} cores",
        }
        width = max(len(name) for name in rows)
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


def measure_agent(plan: AgentPlan) -> AgentFigures:
    """Measure.

    Raises:
        InputError: no JPEG in the folder.
        ResourceError: the agent or the bare loop failed.
    """
    pictures = sorted(path for path in plan.images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not pictures:
        raise InputError(
            f"no JPEG in {plan.images}",
            expected="X-rays as .jpg or .jpeg",
            came="none",
            do="name another folder with --images",
        )
    agent_per_s, bare_per_s = [], []
    with tempfile.TemporaryDirectory(prefix="cxr-edge-benchmark-") as name:
        folder = Path(name)
        for turn in range(plan.rounds):
            files = _fill(folder / f"watched {turn}", pictures, plan.count)
            bare_per_s.append(_bare(plan.bundle, files))
            agent_per_s.append(_agent(plan.bundle, files, folder / f"state {turn}"))
            size_bytes = sum(path.stat().st_size for path in files.glob("*.jpg"))
        idle = _idle(plan.bundle, folder, plan.idle_s)
        cold_s = statistics.median(_cold(plan.bundle, folder, pictures[0], turn) for turn in range(plan.rounds))
    ratios = tuple(one / other for one, other in zip(agent_per_s, bare_per_s, strict=True))
    return AgentFigures(
        agent_per_s=statistics.median(agent_per_s),
        bare_per_s=statistics.median(bare_per_s),
        ratio=statistics.median(ratios),
        ratios=ratios,
        idle_core_share=idle["core_share"],
        rss_bytes=int(idle["rss_bytes"]),
        cold_start_s=cold_s,
        files=plan.count,
        file_bytes=size_bytes // plan.count,
        cores=len(os.sched_getaffinity(0)),
    )


def _fill(folder: Path, pictures: Sequence[Path], count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        data = pictures[number % len(pictures)].read_bytes()
        if data[:2] == _SOI:  # ITU-T T.81, B.2.4.5: a comment, its length and text; decoders skip it
            data = _SOI + _COM + b"\x00\x0a" + b"%08d" % number + data[2:]
        path = folder / f"{number:06}.jpg"
        path.write_bytes(data)
        long_ago_s = time.time() - _SETTLED_AGE_S
        os.utime(path, (long_ago_s, long_ago_s))
    return folder


def _bare(bundle: Path, files: Path) -> float:
    done = _run([sys.executable, "-m", "toolkit.benchmark.agent_bare", str(bundle), str(files)])
    said = json.loads(done.splitlines()[-1])
    return float(said["files"] / said["seconds"])


def _agent(bundle: Path, files: Path, state: Path) -> float:
    _run([*_command(bundle, files, state), "--once"])
    query = "SELECT count(*), max(made_s) - (SELECT min(taken_s) FROM intake) FROM result"
    count, seconds = _journal(state, query)[0]
    return float(count / seconds)


def _cold(bundle: Path, folder: Path, picture: Path, turn: int) -> float:
    files = _fill(folder / f"one {turn}", [picture], 1)
    start_s = time.time()
    _run([*_command(bundle, files, folder / f"cold {turn}"), "--once"])
    return float(_journal(folder / f"cold {turn}", "SELECT min(made_s) FROM result")[0][0]) - start_s


def _idle(bundle: Path, folder: Path, idle_s: float) -> Mapping[str, float]:
    """What an agent takes that has scored something and now has nothing to do."""
    with _running(bundle, folder / "watched 0", folder / "state 0", folder / "idle.log") as pid:
        time.sleep(min(idle_s, 3.0))  # its first look, and the threads that then come to rest
        before_s, start_s = _cpu_s(pid), time.monotonic()
        time.sleep(idle_s)
        share = (_cpu_s(pid) - before_s) / (time.monotonic() - start_s)
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return {"core_share": share, "rss_bytes": pages * os.sysconf("SC_PAGE_SIZE")}


@contextmanager
def _running(bundle: Path, files: Path, state: Path, log: Path) -> Iterator[int]:
    command = [one for one in _command(bundle, files, state) if one != "--quiet"]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            _until(lambda: b"watching" in log.read_bytes() and process.poll() is None, log)
            yield process.pid
        finally:
            process.terminate()


def _until(condition: Callable[[], bool], log: Path) -> None:
    deadline_s = time.monotonic() + _START_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise _failed(log.read_text(errors="replace"))
        time.sleep(0.05)


def _command(bundle: Path, files: Path, state: Path) -> list[str]:
    command = [sys.executable, "-m", "toolkit.cli.main", "agent", "--quiet"]
    return [*command, "--watch", str(files), "--bundle", str(bundle), "--state", str(state)]


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        raise _failed(done.stderr)
    return done.stdout


def _failed(text: str) -> ResourceError:
    return ResourceError(
        "a measured process failed",
        expected="a run to its end",
        came="\n".join(text.strip().splitlines()[-5:]) or "no word",
        do="cxr-edge bundle verify BUNDLE",
    )


def _journal(state: Path, query: str) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(state / "journal.sqlite")
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def _cpu_s(pid: int) -> float:
    # proc(5), /proc/PID/stat: utime and stime are fields 14 and 15; the name before them may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
