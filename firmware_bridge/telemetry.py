"""How the device is: temperature, throttling, memory, disk, queues, latencies. What it cannot tell is left out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from firmware_bridge.disk import space_at
from firmware_bridge.errors import ResourceError
from firmware_bridge.journal import Journal

_LATEST_RESULTS = 200
_VCGENCMD_TIMEOUT_S = 2.0
# Raspberry Pi documentation, "OS", vcgencmd get_throttled: bit 16 and up say the same since the last boot.
_THROTTLED_BITS = {"under_voltage": 0, "frequency_capped": 1, "throttled": 2, "soft_temperature_limit": 3}
_SINCE_BOOT = 16


class Telemetry:
    """Reads what the kernel tells.

    Args:
        journal: open; its folder's disk is the one that is measured.
        waiting: files that wait to be scored.
        root: what stands for "/" (tests).
    """

    def __init__(self, journal: Journal, *, waiting: Callable[[], int], root: Path = Path("/")) -> None:
        self._journal = journal
        self._waiting = waiting
        self._sys = root / "sys"
        self._proc = root / "proc"
        self._started_s = time.monotonic()

    def sample(self) -> dict[str, Any]:
        """All that can be told now, flat, with units in the names."""
        facts: dict[str, Any] = {
            "version": _version(),
            "uptime_s": round(time.monotonic() - self._started_s),
            "waiting_files": self._waiting(),
            **self._hardware(),
            **self._memory(),
            **self._disk(),
            **self._queues(),
        }
        return {name: value for name, value in facts.items() if value is not None}

    def _hardware(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"temperature_c": self._temperature_c(), "load_1min": round(os.getloadavg()[0], 2)}
        bits = self._throttled_bits()
        if bits is not None:
            for name, bit in _THROTTLED_BITS.items():
                facts[name] = bool(bits >> bit & 1)
                facts[f"{name}_since_boot"] = bool(bits >> (bit + _SINCE_BOOT) & 1)
        return facts

    def _temperature_c(self) -> float | None:
        """The hottest zone: kernel, Documentation/driver-api/thermal/sysfs-api, `temp` in thousandths of a degree."""
        zones = sorted((self._sys / "class" / "thermal").glob("thermal_zone*/temp"))
        known = [value for zone in zones if (value := _read_int(zone)) is not None]
        return round(max(known) / 1000, 1) if known else None

    def _throttled_bits(self) -> int | None:
        text = _read(self._sys / "devices" / "platform" / "soc" / "soc:firmware" / "get_throttled")
        if text is None and shutil.which("vcgencmd"):
            text = _vcgencmd()
        try:
            return None if text is None else int(text.strip().rpartition("=")[2], 16)
        except ValueError:
            return None

    def _memory(self) -> dict[str, int]:
        facts = {}
        status = _table(_read(self._proc / "self" / "status"))
        meminfo = _table(_read(self._proc / "meminfo"))
        for name, table, key in [
            ("memory_used_bytes", status, "VmRSS"),
            ("memory_available_bytes", meminfo, "MemAvailable"),
            ("memory_total_bytes", meminfo, "MemTotal"),
        ]:
            if key in table:
                facts[name] = table[key] * 1024
        return facts

    def _disk(self) -> dict[str, int]:
        # Of the state folder, which is local. A dead network mount would hold up whoever asks it.
        try:
            space = space_at(self._journal.path.parent)
        except OSError:
            return {}
        return {"disk_free_bytes": space.free_bytes, "disk_total_bytes": space.total_bytes}

    def _queues(self) -> dict[str, Any]:
        try:
            counts = self._journal.counts()
            records = self._journal.latest(limit=_LATEST_RESULTS)
        except ResourceError:
            return {}  # the status tells of the broken disk
        return {"unsent_results": counts.unsent, "results": counts.results, **latencies_ms(records)}


def latencies_ms(records: Iterable[str]) -> dict[str, float]:
    """Median and 95th percentile of each timing in result records, as `decode_p50_ms` and so on."""
    timings: dict[str, list[float]] = {}
    for record in records:
        for name, value in json.loads(record).get("timings_ms", {}).items():
            timings.setdefault(name, []).append(value)
    facts = {}
    for name in ("decode", "infer"):
        if values := sorted(timings.get(name, [])):
            facts[f"{name}_p50_ms"] = _nearest_rank(values, 0.50)
            facts[f"{name}_p95_ms"] = _nearest_rank(values, 0.95)
    return facts


def _nearest_rank(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def _version() -> str | None:
    try:
        return version("cxr-edge")
    except PackageNotFoundError:
        return None


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None  # not on this kind of machine; some thermal zones also answer with EAGAIN or EINVAL


def _read_int(file: Path) -> int | None:
    try:
        return int(_read(file) or "")
    except ValueError:
        return None


def _table(text: str | None) -> dict[str, int]:
    """`Name:  123 kB` lines of /proc files."""
    rows = {}
    for line in (text or "").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            rows[name] = int(words[0])
    return rows


def _vcgencmd() -> str | None:
    try:
        done = subprocess.run(
            ["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=_VCGENCMD_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
