"""Memory as Linux tells it in /proc: what the machine has left, and what this process holds."""

from __future__ import annotations

from pathlib import Path


def available_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not tell (proc(5), MemAvailable)."""
    return _field_bytes(Path("/proc/meminfo"), "MemAvailable")


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM; None where the system does not tell (proc(5), VmRSS)."""
    return _field_bytes(Path("/proc/self/status"), "VmRSS")


def peak_bytes() -> int | None:
    """The most memory that this process ever had in RAM; None where the system does not tell (proc(5), VmHWM)."""
    return _field_bytes(Path("/proc/self/status"), "VmHWM")


def _field_bytes(file: Path, name: str) -> int | None:
    try:
        lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    words = next((line.split() for line in lines if line.startswith(f"{name}:")), [])
    return int(words[1]) * 1024 if len(words) == 3 and words[2] == "kB" else None
