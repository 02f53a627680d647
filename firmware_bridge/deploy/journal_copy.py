"""A copy of the agent's journal from before a switch, for the case that the old release cannot go back to its own.

New code may migrate the journal to a schema that old code does not read. Going back to the copy loses no X-ray: what
was scored since is unknown to the journal then, still lies in the watched folder, and is scored and reported again.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from firmware_bridge.deploy.foreign import open_regular
from firmware_bridge.deploy.layout import USER, Layout
from firmware_bridge.errors import DeployError

JOURNAL = "journal.sqlite"
_COMPANIONS = ("-wal", "-shm")
_LOCK_LIMIT_S, _LIMIT_S = 30.0, 300.0


def _copy_of(layout: Layout) -> Path:
    return layout.base / "journal-before.sqlite"


def keep_copy(layout: Layout, *, stop_agent: Callable[[], None] = lambda: None) -> None:
    """Copy the journal, consistently, while an agent may be writing to it. Nothing where there is none.

    The agent's user may have put anything under that name: the copy is made with that user's rights.

    Args:
        layout: the device.
        stop_agent: called where something keeps the journal locked; then it is tried once more.

    Raises:
        DeployError: it cannot be copied: the disk is full, or it is damaged.
    """
    journal, copy = layout.agent_state / JOURNAL, _copy_of(layout)
    account = _account()
    owner = account.pw_uid if account else None
    try:
        os.close(open_regular(journal, owner=owner))
    except OSError:  # none, or a link or a pipe that some process of that user put there: no journal of an agent
        copy.unlink(missing_ok=True)
        return
    part = copy.with_name(f".{copy.name}.part")
    try:
        failure = _copied(journal, part, account)
        if failure:
            stop_agent()
            failure = _copied(journal, part, account)
        if failure:
            raise OSError(failure)
        part.replace(copy)
    except OSError as error:
        raise DeployError(
            "the agent's journal cannot be copied",
            expected="a copy beside the releases, to be able to go back",
            came=str(error),
            do="free some space on the device, then deploy again",
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _account() -> pwd.struct_passwd | None:
    """The agent's user; None where nobody can be become, or there is none (in tests)."""
    with contextlib.suppress(KeyError):
        if os.geteuid() == 0:
            return pwd.getpwnam(USER)
    return None


def _copied(journal: Path, part: Path, account: pwd.struct_passwd | None) -> str:
    """Copy it as that user; what went wrong, or empty."""
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if account:
            os.fchown(handle, account.pw_uid, account.pw_gid)
        code = str(Path(__file__).parents[2])
        done = subprocess.run(
            [sys.executable, "-m", "firmware_bridge.deploy.journal_copy", str(journal), str(part), str(_LOCK_LIMIT_S)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": code, "PYTHONDONTWRITEBYTECODE": "1"},
            **({"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}),  # type: ignore[call-overload]
        )
        if account:
            os.fchown(handle, 0, 0)
        os.fsync(handle)
    except subprocess.TimeoutExpired:
        return f"no end within {_LIMIT_S:.0f} s"
    finally:
        os.close(handle)
    if done.returncode:
        return str((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300])
    return ""


def main(arguments: list[str]) -> int:
    """`JOURNAL COPY SECONDS`, the longest wait for a lock: the body of the process that copies."""
    source_path, target_path, limit_s = arguments
    try:
        with (
            contextlib.closing(
                sqlite3.connect(f"file:{source_path}?mode=ro", uri=True, timeout=float(limit_s))
            ) as source,
            contextlib.closing(sqlite3.connect(target_path)) as target,
        ):
            target.execute("PRAGMA journal_mode=OFF")  # beside the copy this user may not write
            source.backup(target)
    except sqlite3.Error as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
