"""The section [retention]: how long things are kept, and how much of a disk is left free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firmware_bridge.settings import setting


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """See each key's help."""

    SECTION: ClassVar[str] = "retention"
    reserve_mb: float = setting(
        200.0, "Free megabytes (or 5% of a small disk) below which nothing new is taken in.", least=0
    )
    results_days: float = setting(365.0, "Days that reported results stay in the journal. 0: for ever.", least=0)
    journal_mb: float = setting(
        500.0, "Megabytes above which the oldest reported results leave the journal. 0: no limit.", least=0
    )
    unreported: str = setting(
        "keep",
        "What happens to unreported results when they exceed journal_mb: kept, or the oldest dropped and counted.",
        choices=("keep", "drop"),
    )
    done_days: float = setting(0.0, "Days that X-rays stay in done/. 0: for ever.", least=0)
    done_mb: float = setting(0.0, "Megabytes above which the oldest X-rays leave done/. 0: no limit.", least=0)
    rejected_days: float = setting(0.0, "Days that files stay in rejected/. 0: for ever.", least=0)
    rejected_mb: float = setting(0.0, "Megabytes above which the oldest files leave rejected/. 0: no limit.", least=0)
    every_s: float = setting(600.0, "Seconds between two rounds.", least=0.1)
