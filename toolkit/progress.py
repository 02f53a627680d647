"""Progress for everything longer than two seconds: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from toolkit.interrupt import raise_if_interrupted
from toolkit.quiet import terminal

Item = TypeVar("Item")
LINE_EVERY_S = 10.0


def progress(items: Iterable[Item], description: str, *, total: int | None = None) -> Iterator[Item]:
    """Yield `items` and show on standard error how far we are.

    Args:
        items: anything iterable; its length is the total when it has one.
        description: what is being done, in a few words.
        total: the number of items, where `items` has no length.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed and Python dropped it (see `toolkit.interrupt`).
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    items = _until_interrupted(items)
    # The bar's library comes with the extras; a bare device shows lines.
    if terminal().isatty() and importlib.util.find_spec("rich"):
        yield from _bar(items, description, total=total)
    else:
        yield from _lines(items, description, total=total)


def _until_interrupted(items: Iterable[Item]) -> Iterator[Item]:
    for item in items:
        raise_if_interrupted()
        yield item
    raise_if_interrupted()


def _bar(items: Iterable[Item], description: str, *, total: int | None) -> Iterator[Item]:
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
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=terminal())) as bar:
        yield from bar.track(items, total=total, description=description)


def _lines(items: Iterable[Item], description: str, *, total: int | None) -> Iterator[Item]:
    start_s = last_s = time.monotonic()
    for done, item in enumerate(items):
        now_s = time.monotonic()
        if now_s - last_s >= LINE_EVERY_S:
            of = f" of {total}" if total else ""
            _line(f"{description}: {done}{of}, {now_s - start_s:.0f} s")
            last_s = now_s
        yield item


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
