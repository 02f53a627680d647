"""From a stream of items to a stream of rows, through an engine whose workers may die at any time."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from itertools import count, islice

from firmware_bridge.errors import UnreadableImage
from toolkit.archive.engine import Died, Engine, Task
from toolkit.archive.names import Item
from toolkit.archive.work import Scored, unreadable

TASK_ITEMS = 32  # long enough that handing over costs nothing, short enough that a worker's death costs little
MOST_DEATHS = 3
_WAIT_S = 0.5
_LISTED = 512  # items that are handed over at once by the listing thread
_LISTS = 8  # such lists that may wait
Finished = tuple[Item, Scored]


def dispatch(items: Iterator[Item], engine: Engine, *, task_items: int = TASK_ITEMS) -> Iterator[list[Finished]]:
    """Score all items; yields what is finished, an empty list at least twice a second.

    A task whose worker died is tried again one item at a time. An item over which `MOST_DEATHS` workers died, the
    first among them, is told as unreadable: whatever it does to them, the others are to be scored.

    Raises:
        CxrEdgeError: as the engine and `items` raise it.
    """
    running: dict[int, Task] = {}
    again: deque[Item] = deque()
    deaths: dict[str, int] = {}
    numbers = count(1)

    def hand_out() -> None:
        while engine.free > 0 and (batch := (again.popleft(),) if again else tuple(islice(items, task_items))):
            task = Task(next(numbers), batch)
            running[task.number] = task
            engine.submit(task)

    hand_out()
    while running or again or not engine.free:
        finished: list[Finished] = []
        for outcome in engine.wait(_WAIT_S):
            task = running.pop(outcome.number)
            if isinstance(outcome, Died):
                finished += _after_death(task, outcome.how, deaths, again)
            else:
                finished += zip(task.items, outcome.scored, strict=True)
                for item in task.items if deaths else ():
                    deaths.pop(item.path, None)
        hand_out()  # before what is finished is written: no worker waits for that
        yield finished


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


def listed_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, listed by a thread that is a little ahead: no worker waits for a slow share or object store."""
    ready: queue.Queue[list[Item] | BaseException | None] = queue.Queue(_LISTS)
    over = threading.Event()

    def put(entry: list[Item] | BaseException | None) -> bool:
        while not over.is_set():
            try:
                ready.put(entry, timeout=_WAIT_S)
                return True
            except queue.Full:
                continue
        return False

    def body() -> None:
        try:
            while some := list(islice(items, _LISTED)):
                if not put(some):
                    return
            put(None)
        except BaseException as error:  # raised again where the items are used
            put(error)

    thread = threading.Thread(target=body, name="listing", daemon=True)
    thread.start()
    try:
        while (entry := ready.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield from entry
    finally:
        over.set()
        thread.join(2 * _WAIT_S)
