"""Progress for everything longer than two seconds: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from toolkit.interrupt import raise_if_interrupted
from toolkit.quiet import terminal

Item = TypeVar("Item")
LINE_EVERY_S = 10.0


def progress(
    items: Iterable[Item],
    description: str,
    *,
    total: int | Callable[[], int | None] | None = None,
    size: Callable[[Item], int] = lambda _: 1,
) -> Iterator[Item]:
    """Yield `items` and show on standard error how far we are.

    Args:
        items: anything iterable; its length is the total when it has one.
        description: what is being done, in a few words.
        total: the number of items, where `items` has no length; a function where it becomes known on the way.
        size: how many items one of `items` stands for.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed and Python dropped it (see `toolkit.interrupt`).
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    known = total if callable(total) else lambda: total
    items = _until_interrupted(items)
    # The bar's library comes with the extras; a bare device shows lines.
    if terminal().isatty() and importlib.util.find_spec("rich"):
        yield from _bar(items, description, total=known, size=size)
    else:
        yield from _lines(items, description, total=known, size=size)


def _until_interrupted(items: Iterable[Item]) -> Iterator[Item]:
    for item in items:
        raise_if_interrupted()
        yield item
    raise_if_interrupted()


def _bar(
    items: Iterable[Item], description: str, *, total: Callable[[], int | None], size: Callable[[Item], int]
) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=terminal())) as bar:
        shown = bar.add_task(description, total=total(), rate="")
        for item in items:
            yield item
            elapsed_s = bar.tasks[shown].elapsed or 0.0
            done = bar.tasks[shown].completed + size(item)
            bar.update(shown, completed=done, total=total(), rate=_rate(done, elapsed_s))


def _lines(
    items: Iterable[Item], description: str, *, total: Callable[[], int | None], size: Callable[[Item], int]
) -> Iterator[Item]:
    start_s = last_s = time.monotonic()
    done = 0
    for item in items:
        now_s = time.monotonic()
        if now_s - last_s >= LINE_EVERY_S:
            known, elapsed_s = total(), now_s - start_s
            of = f" of {known}" if known else ""
            left = f", {_left(elapsed_s * (known - done) / done)} left" if known and 0 < done <= known else ""
            _line(f"{description}: {done}{of}, {elapsed_s:.0f} s, {_rate(done, elapsed_s)}{left}")
            last_s = now_s
        yield item
        done += size(item)


def _rate(done: float, elapsed_s: float) -> str:
    return f"{done / elapsed_s:.3g}/s" if elapsed_s > 0 else ""


def _left(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@contextmanager
def waiting(description: str) -> Iterator[None]:
    """Show that something is going on that cannot be counted: a spinner on a terminal, a line elsewhere."""
    if terminal().isatty() and importlib.util.find_spec("rich"):
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(file=terminal()), transient=True) as bar:
            bar.add_task(description, total=None)
            yield
    else:
        _line(description)
        yield


def _line(text: str) -> None:
    terminal().write(text + "\n")
    terminal().flush()
