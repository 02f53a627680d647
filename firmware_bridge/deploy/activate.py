"""The switch: one link, then a watch, then either it stays or everything is as it was. Goes on after a power cut.

It runs in a systemd unit of its own, so that a lost connection or a killed deployer has no part in it. As long as the
link `activating` is there it is not settled; the unit starts with the machine where it finds that link.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from firmware_bridge.deploy import secret_files, way_back
from firmware_bridge.deploy.health import watch_release
from firmware_bridge.deploy.history import history, remember, tidy
from firmware_bridge.deploy.journal_copy import drop_copy, keep_copy, put_back
from firmware_bridge.deploy.keys import note_keys
from firmware_bridge.deploy.layout import ACTIVATION, SERVICE, UPDATE_PATH, Layout
from firmware_bridge.deploy.release import (
    APP,
    ORDER,
    OUTCOME,
    ROLLED_BACK,
    RUNNING,
    Description,
    read_json,
    read_release,
    switch,
    write_json,
)
from firmware_bridge.deploy.systemd import state_of, systemctl
from firmware_bridge.errors import CxrEdgeError, DeployError, RolledBack

# As long as `cxr-edge deploy --watch` may be; the unit's own limit (install.py) is longer than all that comes to it.
MOST_WATCH_S = 3600.0
_FOLLOW_TICK_S = 0.05
_LOCK_LIMIT_S = 600.0
_START_LIMIT_S = 150.0
# Two starts of two releases, a trial of three X-rays, systemd's own limits: beside the watch.
_SETTLE_LIMIT_S = 900.0
_CUT = {
    "what": "the new release did not prove itself",
    "expected": "the switch to be watched to its end",
    "came": "the device went down while it was rolling back",
    "do": "`cxr-edge logs` shows more; deploy again",
}


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


def order(layout: Layout, id: str, *, watch_s: float, keep: int, reason: str, broker: bool = True) -> None:
    """Ask for a switch: durable from here on. The unit does it, whatever becomes of us.

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
    note_keys(layout, read_release(layout, id))
    (folder / OUTCOME).unlink(missing_ok=True)
    drop_copy(layout)  # of an earlier switch
    way_back.lay(layout, previous)
    asked: dict[str, Any] = {"previous": previous, "watch_s": watch_s, "keep": keep, "reason": reason}
    write_json(folder / ORDER, {**asked, "broker": broker, "said": [], way_back.LAID: True})
    switch(layout, layout.activating, id)
    systemctl("daemon-reload")
    systemctl("enable", "--quiet", ACTIVATION)
    systemctl("start", "--no-block", ACTIVATION)


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
        error = ended.get("error") or _told(OSError("the disk is full: nobody could write down how it ended"))
        ended.setdefault("now", "`cxr-edge status` shows what runs")
        what = f"{error['what']}; {ended['now']}"
        raise RolledBack(what, expected=error["expected"], came=error["came"], do=error["do"])
    return id


def activate(layout: Layout) -> None:
    """Body of the unit: do or finish the switch that was ordered. Nothing where none is.

    Raises:
        DeployError: somebody else holds the lock for too long; systemd does not answer.
        OSError: the disk is full or cannot be written.
    """
    with locked(layout, wait_s=_LOCK_LIMIT_S):
        id = layout.linked_id(layout.activating)
        if id is None:
            layout.activating.unlink(missing_ok=True)
            return
        asked = read_json(layout.release(id) / ORDER)
        if way_back.is_taken(layout, asked):  # the power went while it was rolling back
            _roll_back(layout, id, asked, asked.get("error") or _told(DeployError(**_CUT)))
            return
        try:
            description = read_release(layout, id)
            _try(layout, description, asked)
            _settle(layout, description, asked)
        except Exception as error:  # whatever it is: the device must not be left with what did not prove itself
            _roll_back(layout, id, asked, _told(error))
            return
        switch(layout, layout.activating, None)
        _clean(layout, keep=int(asked.get("keep", 3)))


def _try(layout: Layout, description: Description, asked: dict[str, Any]) -> None:
    id, previous = description.id, asked.get("previous")
    if layout.linked_id(layout.current) != id and _other_code(layout, previous, description):
        keep_copy(layout, stop_agent=lambda: _stop(SERVICE))
    _start(layout, id)
    watch_release(
        layout,
        description,
        watch_s=float(asked["watch_s"]),
        say=lambda text: _say(layout, id, text),
        broker=asked.get("broker", True) is True,
    )


def _other_code(layout: Layout, previous: str | None, description: Description) -> bool:
    """Whether the journal may be migrated by the switch. An unreadable release counts as another."""
    with contextlib.suppress(DeployError):
        return previous is None or read_release(layout, previous).layers[APP] != description.layers[APP]
    return True


def _start(layout: Layout, id: str) -> None:
    secret_files.put_in(layout)
    if layout.linked_id(layout.current) != id:
        switch(layout, layout.current, id)
    _say(layout, id, "switched")
    systemctl("daemon-reload")
    systemctl("enable", "--quiet", SERVICE)
    listens = read_release(layout, id).extra.get("update") is True
    systemctl("enable" if listens else "disable", "--now", "--quiet", UPDATE_PATH, check=listens)
    systemctl("reset-failed", SERVICE, check=False)
    systemctl("restart", SERVICE, limit_s=_START_LIMIT_S)


def _stop(unit: str) -> None:
    systemctl("stop", unit, check=False)


def _settle(layout: Layout, description: Description, asked: dict[str, Any]) -> None:
    way_back.free_reserve(layout)
    write_json(layout.release(description.id) / OUTCOME, {"state": RUNNING, "previous": asked.get("previous")})
    remember(layout, description)


def _clean(layout: Layout, *, keep: int) -> None:
    """Remove what a settled switch leaves over. What cannot be removed is no reason to call it failed."""
    id = layout.linked_id(layout.current)
    steps: list[Callable[[Layout], object]] = [way_back.drop, drop_copy, lambda layout: tidy(layout, keep=keep)]
    if id:
        steps.append(lambda layout: secret_files.settle(layout, id))
    steps.append(lambda layout: secret_files.tidy(layout, keep=history(layout)))
    for step in steps:
        try:
            step(layout)
        except (OSError, DeployError) as error:
            sys.stderr.write(f"not removed: {error}\n")


def _roll_back(layout: Layout, id: str, asked: dict[str, Any], told: dict[str, str]) -> None:
    """Back to what ran before. Where nothing ran: nothing runs. The link goes back first, words come after."""
    previous = asked.get("previous")
    if previous and not layout.release(previous).is_dir():
        previous = None
    way_back.take(layout, previous)
    with contextlib.suppress(OSError):  # the old release runs with the new password rather than not at all
        secret_files.put_back(layout)
    way_back.free_reserve(layout)
    _note(layout, id, said=["rolling back"], error=told)
    with contextlib.suppress(DeployError):
        systemctl("daemon-reload")
    if previous == id:  # the same release, started again: there is nothing to go back to, and it may yet come up
        now = "it is the release that ran before; systemd goes on trying"
    elif previous:
        now = _run_again(layout, id, previous)
    else:
        with contextlib.suppress(DeployError):
            systemctl("disable", "--now", "--quiet", SERVICE, check=False)
            # `disable` takes the link of a linked unit away; the next deployment puts it back.
            systemctl("daemon-reload")
        now = "nothing runs, as before"
    with contextlib.suppress(OSError):
        write_json(
            layout.release(id) / OUTCOME, {"state": ROLLED_BACK, "previous": previous, "now": now, "error": told}
        )
    switch(layout, layout.activating, None)
    for step in (way_back.drop, drop_copy):
        with contextlib.suppress(OSError):
            step(layout)


def _run_again(layout: Layout, id: str, previous: str) -> str:
    """Start what ran before; how that ended, in words."""
    try:
        systemctl("reset-failed", SERVICE, check=False)
        systemctl("restart", SERVICE, check=False, limit_s=_START_LIMIT_S)
        if state_of(SERVICE).active != "active":
            systemctl("stop", SERVICE, check=False)
            if put_back(layout):
                _note(layout, id, said=["the journal goes back to what it was before the switch"])
            systemctl("restart", SERVICE, check=False, limit_s=_START_LIMIT_S)
        return f"release {previous} runs again" if state_of(SERVICE).active == "active" else "the old release is down"
    except (DeployError, OSError) as error:
        return f"release {previous} is to run again, but: {error}"[:300]


def _told(error: Exception) -> dict[str, str]:
    if isinstance(error, CxrEdgeError):
        return error.told()
    return {
        "what": "the switch failed",
        "expected": "the new release to start",
        "came": f"{type(error).__name__}: {error}"[:500],
        "do": "mend that, then deploy again",
    }


def _say(layout: Layout, id: str, text: str) -> None:
    _note(layout, id, said=[text])


def _note(layout: Layout, id: str, *, said: list[str], **more: Any) -> None:
    """Write into the order what was done. A full disk takes the word, and nothing else."""
    path = layout.release(id) / ORDER
    content = read_json(path)
    if content:
        with contextlib.suppress(OSError):
            write_json(path, {**content, **more, "said": [*content.get("said", []), *said]})
