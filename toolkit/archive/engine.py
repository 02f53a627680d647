"""What scores tasks: a few X-rays go in, their rows come out, or the news that the worker died over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from firmware_bridge.errors import ResourceError
from toolkit.archive.names import Item
from toolkit.archive.work import Scored, Setup, Worker

# So many deaths while a worker loads its model, and none that lived: it is not the X-rays.
MOST_FAILED_STARTS = 3


@dataclass(frozen=True, slots=True)
class Task:
    """A few items for one worker.

    Attributes:
        number: unique in a run.
        items: at least one.
    """

    number: int
    items: tuple[Item, ...]

    def to_send(self) -> list[Item]:
        """The items without the columns that are kept: what a list says of patients stays where the list is."""
        return [replace(item, kept=()) if item.kept else item for item in self.items]


@dataclass(frozen=True, slots=True)
class Done:
    """A task is finished; `scored` has the order of its items."""

    number: int
    scored: Sequence[Scored]


@dataclass(frozen=True, slots=True)
class Died:
    """The worker of a task is gone; none of its items has a row."""

    number: int
    how: str


class Engine(Protocol):
    """Runs tasks, several at once. For one thread."""

    @property
    def free(self) -> int:
        """How many more tasks it takes now."""

    def submit(self, task: Task) -> None:
        """Take a task; only while `free` is above 0."""

    def wait(self, timeout_s: float) -> Sequence[Done | Died]:
        """What became of tasks, after `timeout_s` at the latest.

        Raises:
            CxrEdgeError: the engine cannot go on; tasks that it has are not done.
        """

    def close(self) -> None:
        """End all workers."""


class Inline:
    """Scores in this process: for file systems that no other process sees (`memory://`)."""

    def __init__(self, setup: Setup) -> None:
        self._worker = Worker(setup)
        self._task: Task | None = None

    @property
    def free(self) -> int:
        """1 or 0."""
        return int(self._task is None)

    def submit(self, task: Task) -> None:
        """Take a task."""
        self._task = task

    def wait(self, timeout_s: float) -> Sequence[Done | Died]:
        """Score the task."""
        task, self._task = self._task, None
        return [Done(task.number, self._worker.score(task.items))] if task else []

    def close(self) -> None:
        """Nothing to end."""


def ended_at_start(how: str) -> ResourceError:
    """The error for workers that die before they have their model."""
    return ResourceError(
        f"{MOST_FAILED_STARTS} workers in a row ended before they were ready",
        expected="workers that load the model",
        came=how,
        do="give them more memory, or start fewer with --workers; `cxr-edge doctor` tries the model in one process",
    )
