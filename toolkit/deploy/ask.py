"""One question to many devices that run cxr-edge already: status, logs, rollback, uninstall."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from firmware_bridge.deploy.earlier import changed_meanwhile
from toolkit.deploy.deploy import Reporter
from toolkit.deploy.device import Device, at_device
from toolkit.deploy.fleet import Ended, Waves, each
from toolkit.deploy.inventory import Host
from toolkit.deploy.ssh import Access
from toolkit.deploy.switch import switch

Password = Callable[[Host], str | None]


async def ask_all(
    hosts: Sequence[Host], access: Access, password: Password, do: str, *, lock: bool = False, **fields: Any
) -> list[Ended[Any]]:
    """Ask every device, and gather answers and errors.

    Args:
        hosts: whom.
        access: how to get in.
        password: for sudo.
        do: the request.
        lock: keep other deployments off meanwhile.
        fields: of the request.
    """

    async def one(host: Host) -> Any:
        async with at_device(host, access, password=lambda: password(host)) as device:
            if lock:
                await device.request("lock")
            return await device.request(do, **fields)

    return await each(hosts, one, Waves(stop_at=1.0))


async def roll_back(
    hosts: Sequence[Host],
    access: Access,
    password: Password,
    reporter: Reporter,
    *,
    to: str | None,
    watch_s: float,
    keep: int,
) -> list[Ended[Any]]:
    """Let every device go back to the release before, or to `to`; it is proven and watched like a new one.

    Args:
        hosts: whom.
        access: how to get in.
        password: for sudo.
        reporter: hears how far each is.
        to: the first digits of a release's id.
        watch_s: how long it must stay up.
        keep: releases that are kept.

    Returns:
        For each that went back, {"id": the release that runs again, "broker": whether its broker was looked at}.
    """

    async def one(host: Host) -> Any:
        async with at_device(host, access, password=lambda: password(host)) as device:
            reporter.step(host.name, "proving the release to go back to")
            before = await _what_runs(device)
            await device.request("lock")
            # Behind somebody else's rollback "the one before" would be what both wanted to leave.
            if not to and await _what_runs(device) != before:
                raise changed_meanwhile(host.name)
            earlier = await device.request("prove_earlier", to=to)
            await switch(
                device,
                earlier["id"],
                access,
                reason="rollback",
                watch_s=watch_s,
                keep=keep,
                broker=earlier["broker"],
                password=lambda: password(host),
                say=lambda line: reporter.step(host.name, line),
            )
            return earlier

    return await each(hosts, one, Waves(stop_at=1.0))


async def _what_runs(device: Device) -> tuple[str | None, str | None]:
    """The release that runs, and the one that a switch is under way to."""
    stock = await device.request("stock", layers={}, secrets=[], every_byte=False)
    return stock["current"], stock["activating"]
