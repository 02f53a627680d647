"""From a stream of items to a stream of rows, through an engine whose workers may die at any time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from itertools import count

from firmware_bridge.errors import UnreadableImage
from toolkit.archive.engine import Died, Engine, Task
from toolkit.archive.names import Item
from toolkit.archive.work import Scored, unreadable

TASK_ITEMS = 32  # long enough that handing over costs nothing, short enough that a worker's death costs little
MOST_DEATHS = 3
_WAIT_S = 0.5
_AHEAD = 4096  # items that the listing thread is ahead
Finished = tuple[Item, Scored]


def dispatch(items: Iterator[Item | None], engine: Engine, *, task_items: int = TASK_ITEMS) -> Iterator[list[Finished]]:
    """Score all items; yields what is finished, an empty list about once a second.

    Args:
        items: None among them stands for a moment in which the listing had no more; see `listed_ahead`.
        engine: what scores.
        task_items: at most so many for one task.

    A task whose worker died is tried again one item at a time. An item over which `MOST_DEATHS` workers died, the
    first among them, is told as unreadable: whatever it does to them, the others are to be scored.

    Raises:
        CxrEdgeError: as the engine and `items` raise it.
    """
    running: dict[int, Task] = {}
    again: deque[Item] = deque()
    deaths: dict[str, int] = {}
    numbers = count(1)
    over = False

    def hand_out() -> float:
        """Occupy the engine; for how many seconds it may then be waited for.

        However slow the listing is, and however many workers there are: what is finished is looked at soon.
        """
        nonlocal over
        end_s = time.monotonic() + _WAIT_S
        while engine.free > 0 and (again or not over):
            if time.monotonic() > end_s:
                return 0.0
            if again:
                batch: tuple[Item, ...] = (again.popleft(),)
            else:
                batch, over = _next(items, task_items)
            if not batch:
                break
            task = Task(next(numbers), batch)
            running[task.number] = task
            engine.submit(task)
        return _WAIT_S

    wait_s = hand_out()
    while running or again or not over:
        finished: list[Finished] = []
        for outcome in engine.wait(wait_s):
            task = running.pop(outcome.number)
            if isinstance(outcome, Died):
                finished += _after_death(task, outcome.how, deaths, again)
            else:
                finished += zip(task.items, outcome.scored, strict=True)
                for item in task.items if deaths else ():
                    deaths.pop(item.path, None)
        wait_s = hand_out()  # before what is finished is written: no worker waits for that
        yield finished


def _next(items: Iterator[Item | None], most: int) -> tuple[tuple[Item, ...], bool]:
    """The next items, fewer where the listing has no more just now; and whether there are none behind them."""
    batch: list[Item] = []
    for item in items:
        if item is None:
            return tuple(batch), False
        batch.append(item)
        if len(batch) == most:
            return tuple(batch), False
    return tuple(batch), True


def _after_death(task: Task, how: str, deaths: dict[str, int], again: deque[Item]) -> list[Finished]:
    """Count a death against the items of a task; those that may be tried again go to `again`, the others get a row."""
    given_up: list[Finished] = []
    for item in task.items:
        deaths[item.path] = deaths.get(item.path, 0) + 1
        if deaths[item.path] < MOST_DEATHS:
            again.append(item)
        else:
            del deaths[item.path]
            given_up.append((item, unreadable(item, _deadly(how))))
    return given_up


def _deadly(how: str) -> UnreadableImage:
    return UnreadableImage(
        "the file ends the program that scores it",
        expected="a file over which no worker dies",
        came=f"{MOST_DEATHS} workers died over it; the last time {how}",
        do="look at it apart; where memory was short, start fewer --workers and score with --retry-unreadable",
    )


def listed_ahead(items: Iterator[Item]) -> Iterator[Item | None]:
    """The same items, listed by a thread that is a little ahead: no worker waits for a slow share or object store.

    None comes in between where there was nothing more for half a second: who takes them is not held up.
    """
    ready: deque[Item] = deque()
    came, room, over = threading.Event(), threading.Event(), threading.Event()
    end: list[BaseException | None] = []

    def wait_for_room() -> None:
        while len(ready) >= _AHEAD and not over.is_set():
            room.clear()  # before the look: what the other one sets after it is not lost
            if len(ready) >= _AHEAD:
                room.wait(_WAIT_S)

    def body() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                ready.append(item)
                came.set()
                wait_for_room()
                if over.is_set():
                    return
        except BaseException as raised:  # raised again where the items are used
            error = raised
        end.append(error)
        came.set()

    thread = threading.Thread(target=body, name="listing", daemon=True)
    thread.start()
    try:
        while True:
            came.clear()  # before the look, as above
            ended = bool(end)
            while ready:
                yield ready.popleft()
                if len(ready) == _AHEAD // 2:
                    room.set()
            if ended:
                if end[0] is not None:
                    raise end[0]
                return
            if not came.wait(_WAIT_S):
                yield None
    finally:
        over.set()
        room.set()
        thread.join(2 * _WAIT_S)
