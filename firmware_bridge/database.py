"""What every SQLite file in the state folder has in common: how it is opened, its transactions, its errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware_bridge.errors import ResourceError


def open_database(path: Path, tables: str) -> sqlite3.Connection:
    """Open or make a file in a folder of its own, made where it is missing (0700). What is committed is durable.

    Args:
        path: of the file.
        tables: statements that make them where they are missing.

    Raises:
        sqlite3.Error: see `translated`.
        OSError: likewise.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    # Autocommit: transactions are opened by hand, where they begin and end.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(tables)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the block, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk can make SQLite roll back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translated(what: str, *, safe: str) -> Iterator[None]:
    """Errors of the disk and of SQLite in the block, as ours.

    Args:
        what: cannot be read or written.
        safe: what is not lost.

    Raises:
        ResourceError: the disk is full or broken.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise ResourceError(
            f"{what} cannot be read or written",
            expected="a state folder that this user can write, with some space, on a local disk",
            came=getattr(error, "strerror", None) or str(error),
            do=f"free some space or mend the disk; {safe}",
        ) from error
