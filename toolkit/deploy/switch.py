"""The switch of a device, seen from here: ordered, and followed to its end, over a new connection if need be."""

from __future__ import annotations

import asyncio
import secrets
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
        DeployError: it was not begun, or nobody knows how it ended.
    """
    # The release may have run before: by the token the device tells the end of this switch from that of an earlier one.
    order: dict[str, Any] = {"id": release, "watch_s": watch_s, "token": secrets.token_hex(8)}
    try:
        outcome = await device.request("switch", progress=say, keep=keep, reason=reason, broker=broker, **order)
    except HostError as lost:
        outcome = await _outcome_after(lost, device.host, access, order, password=password, say=say)
    require_running(device.host, outcome)


async def _outcome_after(
    lost: HostError,
    host: Host,
    access: Access,
    order: Mapping[str, Any],
    *,
    password: Callable[[], str | None],
    say: Say,
) -> Mapping[str, Any]:
    """How a switch ended whose connection was lost."""
    end_s = time.monotonic() + _RECONNECT_LIMIT_S + float(order["watch_s"])
    while time.monotonic() < end_s:
        say("the connection was lost during the switch; trying again")
        await asyncio.sleep(_RECONNECT_S)
        try:
            async with at_device(host, access, password=password) as device:
                outcome: Mapping[str, Any] = await device.request("settle", progress=say, **order)
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
