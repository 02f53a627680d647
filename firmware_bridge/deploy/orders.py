"""Asking for a switch to another release, and hearing how it ends. `activate` is the unit that does it.

Between the two stand files alone: the link `activating`, as long as it is not settled, and in the release the order,
what was said meanwhile, and the outcome. So whoever asked may be cut off, and another may hear the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from firmware_bridge.deploy import secret_files, way_back
from firmware_bridge.deploy.journal_copy import drop_copy
from firmware_bridge.deploy.keys import note_revoked
from firmware_bridge.deploy.layout import ACTIVATION, Layout
from firmware_bridge.deploy.release import ORDER, OUTCOME, RUNNING, read_json, read_release, switch, write_json
from firmware_bridge.deploy.systemd import state_of, systemctl
from firmware_bridge.errors import CxrEdgeError, DeployError, RolledBack

# As long as `cxr-edge deploy --watch` may be; the unit's own limit (install.py) is longer than all that comes to it.
MOST_WATCH_S = 3600.0
_FOLLOW_TICK_S = 0.05
# Two starts of two releases, a trial of three X-rays, systemd's own limits: beside the watch.
_SETTLE_LIMIT_S = 900.0


@contextlib.contextmanager
def locked(layout: Layout, *, wait_s: float = 0.0) -> Iterator[None]:
    """Keep everybody else from changing the device until the block ends; a kill frees it as well.

    Raises:
        DeployError: somebody else holds it.
    """
    layout.lock.parent.mkdir(parents=True, exist_ok=True)
    deadline_s = time.monotonic() + wait_s
    # 0600: flock(2) needs no more than a file that may be read, and would let anybody keep everybody else off.
    handle = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "r+") as file:
        os.fchmod(file.fileno(), 0o600)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline_s:
                    raise DeployError(
                        "somebody else is changing this device",
                        expected="one deployment at a time",
                        came="the lock is held",
                        do="wait until that one is done; `cxr-edge status` shows what runs",
                    ) from error
                time.sleep(_FOLLOW_TICK_S)
        yield


@contextlib.contextmanager
def settled_and_locked(layout: Layout, *, wait_s: float) -> Iterator[bool]:
    """The lock, at a moment when no switch is under way; whether somebody had to be waited for.

    Between an order and the unit that carries it out the lock is free for a moment: whoever takes it then waits.

    Raises:
        DeployError: see `locked`; or a switch does not come to its end.
    """
    deadline_s = time.monotonic() + wait_s
    waited = False
    while True:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(layout))
            except DeployError:
                waited = True
                stack.enter_context(locked(layout, wait_s=max(0.0, deadline_s - time.monotonic())))
            under_way = layout.linked_id(layout.activating)
            if under_way is None:
                secret_files.forget(layout)
                yield waited
                return
        waited = True
        resume(layout)
        for _ in follow(layout, under_way, limit_s=settle_limit_s(layout, under_way)):
            pass


def order(
    layout: Layout, id: str, *, watch_s: float, keep: int, reason: str, broker: bool = True, token: str = ""
) -> None:
    """Ask for a switch: durable from here on. The unit does it, whatever becomes of us.

    Args:
        layout: the device.
        id: the release that shall run; proven.
        watch_s: how long it must stay up.
        keep: releases that are kept.
        reason: "deploy", "rollback", ...
        broker: a configured broker must be reachable.
        token: by which whoever asks knows its own order again; empty: nobody will ask.

    Raises:
        DeployError: systemd does not start it, or nobody could wait for so long a watch.
        OSError: the disk is full or cannot be written.
    """
    if not 0 <= watch_s <= MOST_WATCH_S:
        raise DeployError(
            "the watch is too long",
            expected=f"0 to {MOST_WATCH_S:.0f} seconds",
            came=f"{watch_s:g}",
            do="give a shorter one",
        )
    folder, previous = layout.release(id), layout.linked_id(layout.current)
    note_revoked(layout, read_release(layout, id))
    (folder / OUTCOME).unlink(missing_ok=True)
    drop_copy(layout)  # of an earlier switch
    way_back.lay(layout, previous)
    asked: dict[str, Any] = {"previous": previous, "watch_s": watch_s, "keep": keep, "reason": reason}
    write_json(folder / ORDER, {**asked, "broker": broker, "token": token, "said": [], way_back.LAID: True})
    switch(layout, layout.activating, id)
    systemctl("daemon-reload")
    systemctl("enable", "--quiet", ACTIVATION)
    systemctl("start", "--no-block", ACTIVATION)


def require_ordered(layout: Layout, id: str, token: str, *, wait_s: float) -> None:
    """Make sure that the last order for a release is the one that was given with `token`.

    Raises:
        DeployError: it is another or none, and ours comes no more: what stands there of an end is an earlier one's.
    """
    file = layout.release(id) / ORDER
    if read_json(file).get("token") == token:
        return
    with locked(layout, wait_s=wait_s):  # the connection that was lost may have it still; its lock ends with it
        if read_json(file).get("token") != token:
            raise DeployError(
                "the switch was not begun",
                expected=f"our order for release {id} on the device",
                came="none: the connection was lost before it was there",
                do="give the command again; `cxr-edge status` shows what runs",
            )


def resume(layout: Layout) -> None:
    """Start the unit where a switch is not settled and nobody is at it.

    Raises:
        DeployError: systemd does not start it.
    """
    if layout.linked_id(layout.activating) and state_of(ACTIVATION).active not in ("active", "activating"):
        systemctl("reset-failed", ACTIVATION, check=False)
        systemctl("start", "--no-block", ACTIVATION)


def follow(layout: Layout, id: str, *, limit_s: float) -> Iterator[str]:
    """What the unit says, line by line, until the switch is settled.

    Raises:
        DeployError: it is not settled within `limit_s`, or the unit ended without settling it.
    """
    folder, told = layout.release(id), 0
    deadline_s = time.monotonic() + limit_s
    while True:
        # The link alone tells: on a full disk there may be no word of how it ended.
        settled = layout.linked_id(layout.activating) != id
        said = read_json(folder / ORDER).get("said", [])
        yield from said[told:]
        told = max(told, len(said))
        if settled:
            return
        if time.monotonic() > deadline_s or state_of(ACTIVATION).active == "failed":
            raise DeployError(
                "the switch is not settled",
                expected=f"an end within {limit_s:.0f} s",
                came=f"{ACTIVATION} is {state_of(ACTIVATION).active}",
                do=f"look at `journalctl -u {ACTIVATION}` on the device, then deploy again",
            )
        time.sleep(_FOLLOW_TICK_S)


def settle_limit_s(layout: Layout, id: str) -> float:
    """After how long an ordered switch must have come to its end, whichever."""
    watch_s = read_json(layout.release(id) / ORDER).get("watch_s")
    return _SETTLE_LIMIT_S + (float(watch_s) if isinstance(watch_s, (int, float)) else 0.0)


def outcome(layout: Layout, id: str) -> dict[str, Any]:
    """How the last switch to a release ended: its "state" and, where it was rolled back, the "error"."""
    return read_json(layout.release(id) / OUTCOME)


def settle(layout: Layout, id: str, *, say: Callable[[str], None]) -> str:
    """Wait for the end of a switch; the id that runs.

    Raises:
        RolledBack: it did not stay up.
        DeployError: it does not end.
    """
    resume(layout)
    for line in follow(layout, id, limit_s=settle_limit_s(layout, id)):
        say(line)
    ended = outcome(layout, id)
    if ended.get("state") != RUNNING:
        error = ended.get("error") or told_of(OSError("the disk is full: nobody could write down how it ended"))
        ended.setdefault("now", "`cxr-edge status` shows what runs")
        what = f"{error['what']}; {ended['now']}"
        raise RolledBack(what, expected=error["expected"], came=error["came"], do=error["do"])
    return id


def told_of(error: Exception) -> dict[str, str]:
    """An error of a switch in four parts, whatever it is."""
    if isinstance(error, CxrEdgeError):
        return error.told()
    return {
        "what": "the switch failed",
        "expected": "the new release to start",
        "came": f"{type(error).__name__}: {error}"[:500],
        "do": "mend that, then deploy again",
    }
