"""The agent on a device, put there by hand: what a deployment leaves, without one."""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from emulated.host import Host
from emulated.site import PLACE as PACKAGES
from emulated.site import REPOSITORY
from firmware_bridge.deploy.layout import SERVICE, USER
from firmware_bridge.deploy.unit import unit_text

WATCH = "/srv/xrays"
PLACE = "/opt/cxr-edge/current"
_ROOMS = "firmware_bridge", "calibration", "toolkit"
Value = TypeVar("Value")


def until(condition: Callable[[], Value], *, timeout_s: float = 60.0, what: str = "") -> Value:
    """Wait until `condition` is true, and return what it returned."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what or condition}"
        time.sleep(0.05)
    return value


class DeviceAgent:
    """The service on `host`, installed but not started. The host was started with its `packages` as a layer.

    Attributes:
        watch: the watched folder, seen from here.
    """

    def __init__(self, host: Host, bundle: Path, *, watch: str = WATCH, config: str = "", **unit: Any) -> None:
        self.host = host
        place = host.root / PLACE.lstrip("/")
        place.mkdir(parents=True)
        ignored = shutil.ignore_patterns("__pycache__")
        for room in _ROOMS:
            shutil.copytree(REPOSITORY / room, place / "app" / room, ignore=ignored)
        (place / "site").symlink_to(PACKAGES)
        shutil.copy(bundle, place / "bundle.cxr")
        host.put(f"{PLACE}/chosen.env", b"")
        told = f'[agent]\nwatch = "{watch}"\nbundle = "{PLACE}/bundle.cxr"\n{config}'
        host.put(f"{PLACE}/agent.toml", told.encode())
        host.inside("useradd", "--system", "--user-group", "--no-create-home", USER)
        host.inside("install", "-d", "-o", USER, "-g", USER, "-m", "2775", watch)
        self.watch = host.root / watch.lstrip("/")
        text = unit_text(watch=watch, **unit).replace("@RELEASE@", PLACE)
        host.put(f"/etc/systemd/system/{SERVICE}", text.encode())
        host.systemctl("daemon-reload")

    def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        done = self.host.inside("systemctl", "start", SERVICE, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{self.log()}"

    @property
    def pid(self) -> int:
        """Its process, as the device counts; 0 where none runs."""
        return int(self.host.show(SERVICE, "MainPID") or 0)

    def signal(self, name: str) -> None:
        """Send a signal to its process."""
        self.host.inside("kill", f"-{name}", str(self.pid))

    def log(self) -> str:
        """What it wrote."""
        return self.host.inside("journalctl", "--no-pager", "--unit", SERVICE, "--output", "cat").stdout

    def drop(self, image: Path) -> Path:
        """Move an X-ray into the folder, unlike any other there; where its JSON will lie."""
        path = self.watch / f"{secrets.token_hex(4)}{image.suffix}"
        hidden = self.watch / f".{path.name}"
        real = image.read_bytes()
        # A comment segment (JPEG, T.81 B.2.4.5) makes it another file with the same picture.
        hidden.write_bytes(real[:2] + b"\xff\xfe\x00\x0a" + secrets.token_hex(4).encode() + real[2:])
        hidden.rename(path)
        return path.with_name(f"{path.name}.cxr.json")

    def score(self, image: Path, *, timeout_s: float = 60.0) -> Any:
        """Drop an X-ray and return its record."""
        beside = self.drop(image)

        def written() -> bool:
            if not self.pid:
                self.start_failed()
            return beside.exists()

        until(written, timeout_s=timeout_s, what=f"a score for {image.name}; log:\n{self.log()}")
        return json.loads(beside.read_bytes())

    def start_failed(self) -> None:
        """Fail with its log if systemd gave it up."""
        assert self.host.show(SERVICE, "ActiveState") in ("active", "activating"), self.log()

    def journal(self, query: str, scratch: Path) -> list[Any]:
        """Rows of its journal, copied to the folder `scratch`; the service must be stopped."""
        # SQLite opens no database through /proc/PID/root.
        shutil.copy(self.host.root / "var/lib/cxr-edge/journal.sqlite", scratch)
        with sqlite3.connect(scratch / "journal.sqlite") as database:
            rows = database.execute(query).fetchall()
        database.close()
        return rows
