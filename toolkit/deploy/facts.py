"""What a device said about itself, and whether it is fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any

from firmware_bridge.errors import DeployError

SCHEMA = 1


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
    def clock(self) -> str:
        """The device's time, ISO 8601 in UTC."""
        return datetime.fromtimestamp(self.clock_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_facts(content: Any) -> Facts:
    """Facts out of what the device sent.

    Raises:
        DeployError: another schema, or something is missing.
    """
    try:
        if not isinstance(content, Mapping) or content["schema"] != SCHEMA:
            raise ValueError("another schema")
        values = {field.name: content[field.name] for field in fields(Facts)}
        return Facts(**{**values, "python": tuple(values["python"])})
    except (LookupError, TypeError, ValueError) as error:
        raise DeployError(
            "the device's facts cannot be read",
            expected=f"facts of schema {SCHEMA}",
            came=str(error),
            do="report it, with the device's /etc/os-release",
        ) from error
