"""The sections [suitability] and [explain] of the agent's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firmware_bridge.settings import setting


@dataclass(frozen=True, slots=True)
class SuitabilitySettings:
    """What is refused before it is scored, where the bundle can tell."""

    SECTION: ClassVar[str] = "suitability"
    enabled: bool = setting(True, "Judge every image by the bundle's statistics before it is scored.")
    outside: str = setting(
        "score", "Images outside the training population: score (and say so) or refuse.", choices=("score", "refuse")
    )


@dataclass(frozen=True, slots=True)
class ExplainSettings:
    """What is told of where a score comes from."""

    SECTION: ClassVar[str] = "explain"
    numbers: bool = setting(True, "Tell the heat map's peak and its share inside the lungs with each result.")
    overlay: bool = setting(False, "Write the X-ray with the heat map over it as NAME.cxr.png beside the result.")
