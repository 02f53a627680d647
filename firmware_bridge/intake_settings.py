"""The section [intake]: when files count as finished, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firmware_bridge.settings import setting


@dataclass(frozen=True, slots=True)
class IntakeSettings:
    """The section [intake]: when a file counts as finished, and how the folder is looked at."""

    SECTION: ClassVar[str] = "intake"
    poll_s: float | None = setting(
        None,
        "Look every so many seconds instead of asking the kernel. On network file systems this is done by itself.",
        least=0.1,
        environment="CXR_EDGE_POLL",
    )
    settle_s: float = setting(
        2.0, "Seconds that a file must keep still to count as finished, where nobody tells that it is.", least=0
    )
    grace_s: float = setting(
        10.0, "Seconds that a file which cannot be decoded must keep still before it is refused.", least=0
    )
    rescan_s: float = setting(
        300.0, "Seconds after which everything is looked at again even though the kernel tells.", least=1
    )
    done: str = setting(
        "stay", "What becomes of a scored X-ray: it stays, or goes to the subfolder done/.", choices=("stay", "move")
    )
    rejected: str = setting(
        "move",
        "What becomes of a refused file: it goes to the subfolder rejected/, or stays.",
        choices=("move", "stay"),
    )
    repeated: str = setting(
        "quiet",
        "A picture that was scored before, under whatever name: not reported again, or once more under the same id.",
        choices=("quiet", "report"),
    )
    stale_claim_s: float = setting(
        900.0, "Seconds without a sign of life after which what another agent has claimed is put back.", least=60
    )
