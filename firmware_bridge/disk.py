"""Free disk, and the reserve of it: below that nothing new is taken in, so that what was taken can be finished."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.health import Health

_LOG = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0
_SMALL_DISK_SHARE = 0.05
# Intake goes on a little above the mark at which it stopped: a disk at the very mark would make it flutter.
_GO_ON_AT = 1.25
_MB = 1e6


@dataclass(frozen=True, slots=True)
class Space:
    """Of the disk that a folder lies on: what this user may still write, and all of it."""

    free_bytes: int
    total_bytes: int

    def least_free_bytes(self, reserve_mb: float) -> float:
        """What is to stay free of it: the reserve, but of a small disk 5% at most."""
        return min(reserve_mb * _MB, _SMALL_DISK_SHARE * self.total_bytes)


def space_at(folder: Path) -> Space:
    """The space of the disk that holds `folder`.

    Raises:
        OSError: the folder is away.
    """
    status = os.statvfs(folder)
    return Space(status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize)


class Disk:
    """Watches the disks that the agent writes to.

    Args:
        folders: one on each disk; those of one disk are told apart by nothing.
        reserve_mb: what stays free; of a small disk, 5% at most.
        health: told when room runs out, and when there is some again.
    """

    def __init__(self, folders: Sequence[Path], *, reserve_mb: float, health: Health) -> None:
        self._folders = folders
        self._reserve_mb = reserve_mb
        self._health = health
        self._next_look_s = 0.0
        self._room = True

    @property
    def has_room(self) -> bool:
        """Whether new work may be taken in; looked up once a second at most."""
        now_s = time.monotonic()
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + _LOOK_EVERY_S
            self._look()
        return self._room

    def _look(self) -> None:
        short = [text for folder in self._folders if (text := self._shortage(folder))]
        self._room = not short
        self._health.report("disk", short[0] if short else None)

    def _shortage(self, folder: Path) -> str:
        try:
            space = space_at(folder)
        except OSError:
            return ""  # away: that is told elsewhere
        need = space.least_free_bytes(self._reserve_mb)
        if space.free_bytes >= need * (1.0 if self._room else _GO_ON_AT):
            return ""
        # No figure of what is free: it would change with every look.
        return f"the disk is nearly full, intake waits: less than {need / _MB:.1f} MB free at {folder}"
