"""Reading a journal from outside the agent, running or stopped, without changing anything in its folder."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from firmware_bridge.errors import ConfigError, ResourceError

JOURNAL = "journal.sqlite"
_BATCH = 500


@contextmanager
def open_reader(state: Path) -> Iterator[sqlite3.Connection]:
    """The journal of a state folder, for reading alone.

    Raises:
        ConfigError: there is no journal in that folder.
        ResourceError: it cannot be read, now or while the caller reads on.
    """
    path = state / JOURNAL
    if not path.exists():
        raise ConfigError(
            f"no agent kept its state in {state}",
            expected=f"a folder with the file {JOURNAL}",
            came="a folder without" if state.is_dir() else "no such folder",
            do="give the agent's --state folder (or its CXR_EDGE_STATE, or the service's /var/lib/cxr-edge)",
        )
    try:
        database = _connect(path)
        try:
            yield database
        finally:
            database.close()
    except sqlite3.Error as error:
        raise ResourceError(
            f"the journal {path} cannot be read",
            expected="a journal that this user may read",
            came=str(error),
            do="run this as the agent's user, or as root",
        ) from error


def results(database: sqlite3.Connection, *, after: int = 0, selftests: bool = True) -> Iterator[tuple[int, str]]:
    """(seq, record) of all results behind `after`, oldest first, in many short reads.

    Without `selftests` those of a deployment's golden X-rays are left out.

    One long read would keep a running agent's write-ahead log from being folded into the file: it would grow and grow.
    """
    # A deployment's golden X-ray counts as sent from the start (`Stored.is_selftest`): no patient's, nobody's result.
    query = "SELECT seq, record FROM result WHERE seq>? AND (? OR sent_s IS NOT made_s) ORDER BY seq LIMIT ?"
    while rows := database.execute(query, (after, selftests, _BATCH)).fetchall():
        yield from rows
        after = rows[-1][0]


def _connect(path: Path) -> sqlite3.Connection:
    # SQLite, "Write-Ahead Logging", section 5: reading needs the -wal and -shm files, or would make them. A stopped
    # agent leaves none behind, and then the file stands still.
    running = path.with_name(path.name + "-wal").exists()
    mode = "mode=ro" if running else "mode=ro&immutable=1"
    database = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{mode}", uri=True, timeout=5.0, isolation_level=None
    )
    # A damaged text must not keep everything else from being seen.
    database.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return database
