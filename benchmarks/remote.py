"""The measuring side of `worker`: starts a contender's process, asks it, and ends it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender
from firmware_bridge.errors import ModelError

ROOT = Path(__file__).resolve().parent.parent
_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Start:
    """How to start one contender.

    Attributes:
        contender: which.
        python: of its environment.
        folder: of all model files.
        preprocessing: of its network, as a manifest has it; empty for the naive ways.
        threads: of its runtime.
    """

    contender: Contender
    python: Path
    folder: Path
    preprocessing: Mapping[str, Any]
    threads: int

    def command(self, **more: str) -> list[str]:
        """The process, told what to be."""
        order = {
            "contender": asdict(self.contender),
            "folder": str(self.folder),
            "preprocessing": self.preprocessing,
            "threads": self.threads,
            **more,
        }
        return [str(self.python), "-m", "benchmarks.worker", json.dumps(order)]


def _environment() -> dict[str, str]:
    # Only what is in the contender's own environment, and this repository's code.
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONNOUSERSITE": "1", "PYTHONPATH": str(ROOT)}
    # `toolkit.tf` leaves a choice of Keras in this process' environment, which is no script's.
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TF_"))} | quiet


def cold(start: Start, image: Path) -> tuple[float, int]:
    """Seconds from the start of a fresh process to its first score, and the most memory it had until then, bytes.

    Raises:
        ModelError: the process failed.
    """
    start_s = time.time()
    command = start.command(once=str(image))
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=_environment(), cwd=ROOT, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(start, f"no end within {_LIMIT_S:.0f} s") from error
    if done.returncode:
        raise _failed(start, done.stderr)
    said = json.loads(done.stdout.splitlines()[-1])
    return said["scored_at_s"] - start_s, said["peak_bytes"]


class Remote:
    """A contender in its own process; a `toolkit.benchmark.stopwatch.FolderContender`."""

    def __init__(self, start: Start, process: subprocess.Popen[str], log: Path) -> None:
        self.start = start
        self.name, self.threads = start.contender.name, start.threads
        self._process, self._log = process, log
        self._answer()

    def time(self, image: Path) -> Mapping[str, float]:
        """See `FolderContender.time`."""
        answer: Mapping[str, float] = self._ask("time", image=str(image))
        return answer

    def time_folder(self, images: Sequence[Path]) -> float:
        """See `FolderContender.time_folder`."""
        return float(self._ask("folder", images=[str(image) for image in images]))

    def logits(self, pixels: Path) -> list[float]:
        """One for each of the X-rays in an `.npz` file: `pixels` (N, S, S) uint8, prepared."""
        return [float(one) for one in self._ask("logits", pixels=str(pixels))]

    def peak_bytes(self) -> int:
        """The most memory that it ever had."""
        return int(self._ask("peak"))

    def _ask(self, do: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise _failed(self.start, self._log.read_text(errors="replace")) from error
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        if not text:
            raise _failed(self.start, self._log.read_text(errors="replace"))
        return json.loads(text)


@contextlib.contextmanager
def running(start: Start) -> Iterator[Remote]:
    """A contender, loaded and waiting, until the block ends.

    Raises:
        ModelError: it cannot be loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                start.command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=_environment(),
                cwd=ROOT,
            ) as process,
        ):
            try:
                yield Remote(start, process, log)
            finally:
                process.terminate()


def _failed(start: Start, text: str) -> ModelError:
    return ModelError(
        f"'{start.contender.name}' ({start.contender.file}, {start.threads} threads) failed",
        expected="a process that loads it and answers",
        came="\n".join(text.strip().splitlines()[-5:]) or "no word",
        do="remove the work folder of the benchmarks and run them again",
    )
