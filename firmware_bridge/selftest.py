"""Golden X-rays that a deployment sends through the watched folder: scored like any other, reported to nobody.

The deployment, as root, writes their SHA-256 to a place that only root can write. So no sender of X-rays can keep a
result from being reported by the choice of a name.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

PREFIX = "cxr-edge-selftest-"
ANNOUNCED = Path("/run/cxr-edge-selftest")


def is_selftest(path: Path, sha256: str) -> bool:
    """Whether a file was put there by a deployment."""
    if not path.name.startswith(PREFIX):
        return False
    with contextlib.suppress(OSError, ValueError):
        return ANNOUNCED.stat().st_uid == 0 and sha256 in ANNOUNCED.read_text(encoding="ascii").split()
    return False
