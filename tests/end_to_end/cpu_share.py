"""A share of a core for a process: a small device in the place of this machine. Linux control groups, as root.

What other work the machine has gives way to it: a device has its processor for itself. It is no more than the share.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_TOP = Path("/sys/fs/cgroup")
_PERIOD_US = 100_000


class CpuShare:
    """A control group. Nothing is limited until `limit`.

    Args:
        name: of the group; this process's number is added.
    """

    def __init__(self, name: str) -> None:
        self._first = (_TOP / "cpu" / "cpu.cfs_quota_us").exists()  # version 1
        base = _TOP / "cpu" if self._first else _TOP
        self._folder = base / f"cxr-edge-{os.getpid()}-{name}"
        try:
            if not self._first:
                (base / "cgroup.subtree_control").write_text("+cpu")
            self._folder.mkdir()
            weight, most = ("cpu.shares", 100 * 1024) if self._first else ("cpu.weight", 10_000)
            (self._folder / weight).write_text(str(most))
            self.limit(None)
        except OSError as error:
            pytest.skip(f"needs control groups of its own for shares of a core (root): {error}")

    @property
    def command(self) -> list[str]:
        """In front of another command: runs it in the group."""
        return ["sh", "-c", f'echo $$ > {self._folder}/cgroup.procs && exec "$@"', "sh"]

    def limit(self, share: float | None) -> None:
        """So much of one core at most, for all processes of the group together; None: no limit."""
        if self._first:
            quota_us = -1 if share is None else int(share * _PERIOD_US)
            (self._folder / "cpu.cfs_quota_us").write_text(str(quota_us))
            (self._folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        else:
            quota = "max" if share is None else str(int(share * _PERIOD_US))
            (self._folder / "cpu.max").write_text(f"{quota} {_PERIOD_US}")

    def close(self) -> None:
        """Remove the group; its processes have ended."""
        if self._folder.is_dir():
            self._folder.rmdir()


def processor_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
