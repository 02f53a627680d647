"""A cable between this machine and one emulated device, that can be cut and made slow."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path
from typing import IO

_LOCKS = Path("/run/lock/cxr-edge-devices")
_MAX_LINKS = 250


class Cable:
    """A veth pair; the far end lies in the network namespace of process `pid`, and everything goes with that.

    Addresses are from 198.18.0.0/15, which RFC 2544 sets aside for tests: no real network has them.
    """

    def __init__(self, pid: int) -> None:
        self._lock, self.number = _take_number()
        self.name = f"cxr-dev{self.number}"
        self.here = f"198.18.{self.number}.1"
        self.there = f"198.18.{self.number}.2"
        _ip("link", "add", self.name, "type", "veth", "peer", "name", "host0", "netns", str(pid))
        _ip("address", "add", f"{self.here}/30", "dev", self.name)
        _ip("link", "set", self.name, "up")
        inside = ["nsenter", "-t", str(pid), "-n"]
        for words in (f"address add {self.there}/30 dev host0", "link set host0 up", "link set lo up"):
            _run([*inside, "ip", *words.split()])
        _run([*inside, "ip", "route", "add", "default", "via", self.here])

    def cut(self) -> None:
        """Pull the cable: packets vanish, nobody is told."""
        _ip("link", "set", self.name, "down")

    def mend(self) -> None:
        """Plug it in again."""
        _ip("link", "set", self.name, "up")

    def throttle(self, *, mbit_per_s: float) -> None:
        """Make everything that goes to the device slow."""
        rate = ["tbf", "rate", f"{mbit_per_s}mbit", "burst", "32kbit", "latency", "400ms"]
        _run(["tc", "qdisc", "replace", "dev", self.name, "root", *rate])

    def unthrottle(self) -> None:
        """Full speed again."""
        _run(["tc", "qdisc", "delete", "dev", self.name, "root"])

    def remove(self) -> None:
        """Take the cable away, and let another have its number."""
        subprocess.run(["ip", "link", "delete", self.name], capture_output=True, check=False)  # gone with the other end
        self._lock.close()


def _take_number() -> tuple[IO[str], int]:
    """A number that no other test on this machine holds; the lock goes with the process that holds it."""
    _LOCKS.mkdir(parents=True, exist_ok=True)
    for number in range(1, _MAX_LINKS + 1):
        file = (_LOCKS / str(number)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        subprocess.run(["ip", "link", "delete", f"cxr-dev{number}"], capture_output=True, check=False)
        return file, number
    raise RuntimeError(f"{_MAX_LINKS} emulated devices are running already")


def _ip(*words: str) -> None:
    _run(["ip", *words])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
