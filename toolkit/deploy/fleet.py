"""Many devices: so many at once, one first if wished, then the rest in waves, and an end when too many fail."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from firmware_bridge.errors import ConfigError, CxrEdgeError, DeployError
from toolkit.deploy.inventory import Host

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Ended(Generic[Value]):
    """How it ended for one device: a value, an error, or neither: it was not begun.

    Attributes:
        bug: what nobody foresaw, behind the error.
    """

    host: Host
    value: Value | None = None
    error: CxrEdgeError | None = None
    bug: Exception | None = None

    @property
    def skipped(self) -> bool:
        """Whether nobody went there, because too many before it failed."""
        return self.value is None and self.error is None


@dataclass(frozen=True, slots=True)
class Waves:
    """How a fleet is gone through.

    Attributes:
        at_once: devices at the same time.
        canary: one device first, alone; if it fails, that is the end.
        wave: devices in a wave; 0: all that are left.
        stop_at: share of failed devices among those done, from which no further wave is begun.
    """

    at_once: int = 10
    canary: bool = False
    wave: int = 0
    stop_at: float = 0.2

    def cut(self, hosts: Sequence[Host]) -> list[Sequence[Host]]:
        """The waves."""
        first = [hosts[:1]] if self.canary and hosts else []
        rest = hosts[len(first) :]
        size = self.wave or max(1, len(rest))
        return [*first, *(rest[start : start + size] for start in range(0, len(rest), size))]

    def goes_on(self, ended: Sequence[Ended[Any]]) -> bool:
        """Whether the next wave is begun."""
        failed = sum(one.error is not None for one in ended)
        return not failed or failed / sum(not one.skipped for one in ended) < self.stop_at


async def each(hosts: Sequence[Host], work: Callable[[Host], Awaitable[Value]], waves: Waves) -> list[Ended[Value]]:
    """Do it to every device, in waves; one's failure is not another's, whatever it is."""
    ended: list[Ended[Value]] = []
    slots = asyncio.Semaphore(waves.at_once)

    async def one(host: Host) -> Ended[Value]:
        async with slots:
            try:
                return Ended(host, await work(host))
            except CxrEdgeError as error:
                return Ended(host, error=error)
            except Exception as bug:
                # The others are in the middle of theirs: nothing that one device makes of us may end them.
                return Ended(host, error=_unforeseen(host, bug), bug=bug)

    for wave in waves.cut(hosts):
        if ended and not waves.goes_on(ended):
            ended += [Ended(host) for host in wave]
            continue
        ended += await asyncio.gather(*(one(host) for host in wave))
    return ended


def _unforeseen(host: Host, bug: Exception) -> DeployError:
    return DeployError(
        f"{host.name}: the deployment failed here, on this machine",
        expected="no error that nobody foresaw",
        came=f"{type(bug).__name__}: {bug}"[:300],
        do="report it with the traceback; the device runs what it ran before",
    )


def worst_exit_code(ended: Sequence[Ended[Any]]) -> int:
    """0 when all is well, else that of the worst; a device that nobody went to counts as failed."""
    codes = [one.error.exit_code for one in ended if one.error is not None]
    skipped = any(one.skipped for one in ended)
    return max(codes, default=1 if skipped else 0)


def wave_size(text: str, hosts: int) -> int:
    """ "5" or "25%" as a number of devices, at least one; 0 for nothing.

    Raises:
        ConfigError: it is no such number, or none of the devices.
    """
    if not text:
        return 0
    number, share = (text[:-1], True) if text.endswith("%") else (text, False)
    if re.fullmatch(r"[0-9]{1,6}" + (r"(\.[0-9]{1,6})?" if share else ""), number) and float(number) > 0:
        if not share:
            return int(number)
        if float(number) <= 100:
            return max(1, math.ceil(hosts * float(number) / 100))
    raise ConfigError(
        "--wave cannot be used",
        expected="a number of devices (5), or a share of them up to 100% (25%)",
        came=text,
        do="mend --wave, or leave it out: all devices at once",
    )
