"""The switch: one link, then a watch, then either it stays or everything is as it was. Goes on after a power cut.

It runs in a systemd unit of its own, so that a lost connection or a killed deployer has no part in it. As long as the
link `activating` is there it is not settled; the unit starts with the machine where it finds that link.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

from firmware_bridge.deploy import secret_files, way_back
from firmware_bridge.deploy.health import watch_release
from firmware_bridge.deploy.history import history, remember, tidy
from firmware_bridge.deploy.journal_copy import drop_copy, keep_copy, put_back
from firmware_bridge.deploy.keys import note_trusted
from firmware_bridge.deploy.layout import SERVICE, UPDATE_PATH, Layout
from firmware_bridge.deploy.orders import locked, told_of
from firmware_bridge.deploy.release import (
    APP,
    ORDER,
    OUTCOME,
    ROLLED_BACK,
    RUNNING,
    Description,
    read_if_whole,
    read_json,
    read_release,
    switch,
    write_json,
)
from firmware_bridge.deploy.systemd import state_of, systemctl
from firmware_bridge.errors import DeployError

_LOCK_LIMIT_S = 600.0
_START_LIMIT_S = 150.0
_CUT = {
    "what": "the new release did not prove itself",
    "expected": "the switch to be watched to its end",
    "came": "the device went down while it was rolling back",
    "do": "`cxr-edge logs` shows more; deploy again",
}


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
            _roll_back(layout, id, asked, asked.get("error") or told_of(DeployError(**_CUT)))
            return
        try:
            description = read_release(layout, id)
            _try(layout, description, asked)
            _settle(layout, description, asked)
        except Exception as error:  # whatever it is: the device must not be left with what did not prove itself
            _roll_back(layout, id, asked, told_of(error))
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
    _listen(read_release(layout, id).extra.get("update") is True)
    systemctl("reset-failed", SERVICE, check=False)
    systemctl("restart", SERVICE, limit_s=_START_LIMIT_S)


def _listen(listens: bool) -> None:
    """Let root wait for a bundle that the agent fetched, or not: as the release that runs says."""
    systemctl("enable" if listens else "disable", "--now", "--quiet", UPDATE_PATH, check=listens)


def _stop(unit: str) -> None:
    systemctl("stop", unit, check=False)


def _settle(layout: Layout, description: Description, asked: dict[str, Any]) -> None:
    way_back.free_reserve(layout)
    write_json(layout.release(description.id) / OUTCOME, {"state": RUNNING, "previous": asked.get("previous")})
    remember(layout, description)
    note_trusted(layout, description)


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
    # Where the order rotted, the link still leads back.
    previous = asked.get("previous") or layout.linked_id(layout.back)
    if previous and not layout.release(previous).is_dir():
        previous = None
    way_back.take(layout, previous)
    secrets = secret_files.changed(layout)
    with contextlib.suppress(OSError):  # the old release runs with the new password rather than not at all
        secret_files.put_back(layout)
    way_back.free_reserve(layout)
    _note(layout, id, said=["rolling back"], error=told)
    with contextlib.suppress(DeployError):
        systemctl("daemon-reload")
    if previous == id and not secrets:  # started again: there is nothing to go back to, and it may yet come up
        now = "it is the release that ran before; systemd goes on trying"
    elif previous:
        now = _run_again(layout, id, previous)
    else:
        with contextlib.suppress(DeployError):
            systemctl("disable", "--now", "--quiet", SERVICE, check=False)
            _listen(False)
            # `disable` takes the link of a linked unit away; the next deployment puts it back.
            systemctl("daemon-reload")
        now = "nothing runs, as before"
    with contextlib.suppress(OSError):
        write_json(
            layout.release(id) / OUTCOME, {"state": ROLLED_BACK, "previous": previous, "now": now, "error": told}
        )
    switch(layout, layout.activating, None)
    for step in (way_back.drop, drop_copy, secret_files.forget):
        with contextlib.suppress(OSError):
            step(layout)


def _run_again(layout: Layout, id: str, previous: str) -> str:
    """Start what ran before; how that ended, in words."""
    if whole := read_if_whole(layout, previous):
        with contextlib.suppress(DeployError):  # no reason to keep the service down
            _listen(whole.extra.get("update") is True)
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


def _say(layout: Layout, id: str, text: str) -> None:
    _note(layout, id, said=[text])


def _note(layout: Layout, id: str, *, said: list[str], **more: Any) -> None:
    """Write into the order what was done. A full disk takes the word, and nothing else."""
    path = layout.release(id) / ORDER
    content = read_json(path)
    if content:
        with contextlib.suppress(OSError):
            write_json(path, {**content, **more, "said": [*content.get("said", []), *said]})
