"""The machine that a benchmark ran on, by what makes a difference to its figures; no names."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

# Those of a processor's features that integer and half-precision kernels ask for, as /proc/cpuinfo spells them.
_FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "asimdhp", "i8mm")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def machine() -> dict[str, Any]:
    """Processor, its features, cores, governor, Python, load average over one minute."""
    facts = _cpuinfo()
    flags = (facts.get("flags") or facts.get("features") or "").split()
    return {
        # x86 names the processor, a Raspberry Pi the board.
        "processor": facts.get("model name") or facts.get("model") or platform.processor(),
        "features": [one for one in _FEATURES if one in flags],
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "governor": _read(_GOVERNOR).strip() or "unknown",
        "python": platform.python_version(),
        # Above the number of cores, others were at work too: absolute times are too long, ratios hold.
        "load_average": round(os.getloadavg()[0], 2),
    }


def _cpuinfo() -> dict[str, str]:
    named = dict(line.split(":", 1) for line in _read(Path("/proc/cpuinfo")).splitlines() if ":" in line)
    return {key.strip().lower(): value.strip() for key, value in named.items()}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
