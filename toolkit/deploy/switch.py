"""The switch of a device, seen from here: ordered, and followed to its end, over a new connection if need be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from firmware_bridge.deploy.release import RUNNING
from firmware_bridge.errors import DeployError, HostError, RolledBack
from toolkit.deploy.device import Device, at_device
from toolkit.deploy.inventory import Host
from toolkit.deploy.ssh import Access

_RECONNECT_S = 2.0
# Longer than a device takes to settle a switch, with a start of the machine in between; watching comes on top.
_RECONNECT_LIMIT_S = 900.0
Say = Callable[[str], None]


async def switch(
    device: Device,
    release: str,
    access: Access,
    *,
    reason: str,
    watch_s: float,
    keep: int,
    broker: bool,
    password: Callable[[], str | None],
    say: Say,
) -> None:
    """Order the switch and hear how it ends.

    Args:
        device: which.
        release: the id that shall run; proven there.
        access: how to get in again, should the connection break in the middle.
        reason: "deploy" or "rollback".
        watch_s: how long it must stay up.
        keep: releases that are kept.
        broker: a configured broker must be reachable from there.
        password: for sudo.
        say: called with what the device says meanwhile.

    Raises:
        RolledBack: it did not prove itself.
        HostError: the device did not come back in time: what it runs is settled there without us.
        DeployError: nobody knows how it ended.
    """
    order: dict[str, Any] = {"id": release, "watch_s": watch_s, "keep": keep, "reason": reason, "broker": broker}
    try:
        outcome = await device.request("switch", progress=say, **order)
    except HostError as lost:
        outcome = await _outcome_after(lost, device.host, release, access, watch_s=watch_s, password=password, say=say)
    require_running(device.host, outcome)


async def _outcome_after(
    lost: HostError,
    host: Host,
    release: str,
    access: Access,
    *,
    watch_s: float,
    password: Callable[[], str | None],
    say: Say,
) -> Mapping[str, Any]:
    """How a switch ended whose connection was lost."""
    end_s = time.monotonic() + _RECONNECT_LIMIT_S + watch_s
    while time.monotonic() < end_s:
        say("the connection was lost during the switch; trying again")
        await asyncio.sleep(_RECONNECT_S)
        try:
            async with at_device(host, access, password=password) as device:
                outcome: Mapping[str, Any] = await device.request("settle", progress=say, id=release, watch_s=watch_s)
                return outcome
        except HostError:
            continue
    raise lost


def require_running(host: Host, outcome: Mapping[str, Any]) -> None:
    """Whether a switch ended with the new release.

    Raises:
        RolledBack: it did not.
        DeployError: nobody knows.
    """
    if outcome.get("state") == RUNNING:
        return
    error = outcome.get("error")
    if not error:
        raise DeployError(
            f"{host.name}: nobody knows how the switch ended",
            expected="an outcome on the device",
            came="none",
            do="`cxr-edge status` shows what runs; deploy again",
        )
    now = outcome.get("now", "`cxr-edge status` shows what runs")
    raise RolledBack(
        f"{host.name}: {error['what']}; {now}",
        expected=error["expected"],
        came=error["came"],
        do=error["do"],
    )
