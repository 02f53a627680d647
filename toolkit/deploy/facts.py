"""What a device said about itself, and whether it is fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from toolkit.deploy.answers import misfit, senseless

SCHEMA = 1
_LONGEST = 1000
_LATEST_S = 2.0**37  # the year 6325: what the calendar of Python can still show


@dataclass(frozen=True, slots=True)
class Facts:
    """As `firmware_bridge/deploy/boot.py` reads them."""

    machine: str
    pointer_bits: int
    python: tuple[int, ...]
    python_path: str
    glibc: str
    glibcxx: str
    os_id: str
    os_like: str
    os_version: str
    os_name: str
    model: str
    jetpack: str
    tensorrt: str
    page_bytes: int
    cpus: int
    memory_bytes: int
    memory_available_bytes: int
    disk_free_bytes: int
    disk_read_only: bool
    clock_s: float
    clock_synchronized: bool | None
    systemd: str
    uid: int
    hostname: str
    boot_id: str

    @property
    def python_minor(self) -> str:
        """ "3.11"."""
        return ".".join(str(part) for part in self.python[:2])

    @property
    def systemd_version(self) -> int:
        """systemd's; 0: it does not run, or nobody knows."""
        found = re.match(r"[0-9]{1,6}", self.systemd)
        return int(found[0]) if found else 0

    @property
    def clock(self) -> str:
        """The device's time, ISO 8601 in UTC."""
        return datetime.fromtimestamp(self.clock_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


_SHAPE: Mapping[str, Any] = {
    **dict.fromkeys(Facts.__dataclass_fields__, str),
    **dict.fromkeys(("pointer_bits", "page_bytes", "cpus", "memory_bytes"), int),
    **dict.fromkeys(("memory_available_bytes", "disk_free_bytes", "uid"), int),
    "python": [int],
    "disk_read_only": bool,
    "clock_s": float,
    "clock_synchronized": (None, bool),
}


def parse_facts(host: str, content: Any) -> Facts:
    """Facts out of what the device `host` sent.

    Raises:
        DeployError: another schema, something is missing, or is no fact.
    """
    wrong = misfit(content, {"schema": int, **_SHAPE}, "facts")
    if wrong is None and content["schema"] != SCHEMA:
        wrong = (f"facts of schema {SCHEMA}", str(content["schema"]))
    wrong = wrong or _impossible(content)
    if wrong:
        raise senseless(host, *wrong)
    values: dict[str, Any] = {name: tuple(content[name]) if name == "python" else content[name] for name in _SHAPE}
    return Facts(**values)


def _impossible(content: Mapping[str, Any]) -> tuple[str, str] | None:
    """(what was expected, what came) where a fact cannot be one."""
    if not (len(content["python"]) >= 2 and content["cpus"] >= 1):
        return "a Python's version and at least one processor", f"{content['python']}, {content['cpus']} processors"
    if not 0 <= content["clock_s"] < _LATEST_S:
        return "a clock", f"{content['clock_s']} s since 1970"
    long = next((value for value in content.values() if isinstance(value, str) and len(value) > _LONGEST), None)
    return ("facts of a line each", long) if long else None
