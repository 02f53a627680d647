"""A copy of the agent's journal from before a switch, for the case that the old release cannot go back to its own.

New code may migrate the journal to a schema that old code does not read. Going back to the copy loses no X-ray: what
was scored since is unknown to the journal then, still lies in the watched folder, and is scored and reported again.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import sqlite3
from pathlib import Path

from firmware_bridge.deploy.layout import USER, Layout
from firmware_bridge.errors import DeployError

JOURNAL = "journal.sqlite"
_COMPANIONS = ("-wal", "-shm")


def _copy_of(layout: Layout) -> Path:
    return layout.base / "journal-before.sqlite"


def keep_copy(layout: Layout) -> None:
    """Copy the journal, consistently, while an agent may be writing to it. Nothing where there is none.

    Raises:
        DeployError: it cannot be copied: the disk is full, or it is damaged.
    """
    journal, copy = layout.agent_state / JOURNAL, _copy_of(layout)
    copy.unlink(missing_ok=True)
    if not journal.is_file():
        return
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=30)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        copy.chmod(0o600)
    except (sqlite3.Error, OSError) as error:
        copy.unlink(missing_ok=True)
        raise DeployError(
            "the agent's journal cannot be copied",
            expected="a copy beside the releases, to be able to go back",
            came=str(error),
            do="free some space on the device, then deploy again",
        ) from error


def put_back(layout: Layout) -> bool:
    """Put the copy in the journal's place; no agent may run. False where there is no copy.

    Raises:
        OSError: it cannot be written.
    """
    journal, copy = layout.agent_state / JOURNAL, _copy_of(layout)
    if not copy.is_file():
        return False
    with contextlib.suppress(KeyError):  # the user is there, but in tests
        account = pwd.getpwnam(USER)
        if os.geteuid() == 0:
            os.chown(copy, account.pw_uid, account.pw_gid)
    for companion in _COMPANIONS:
        journal.with_name(JOURNAL + companion).unlink(missing_ok=True)
    copy.replace(journal)
    return True


def drop_copy(layout: Layout) -> None:
    """Remove the copy: it is settled which release runs."""
    _copy_of(layout).unlink(missing_ok=True)
