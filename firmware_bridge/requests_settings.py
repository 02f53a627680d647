"""The section [requests]: X-rays that are sent over MQTT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firmware_bridge.settings import setting


@dataclass(frozen=True, slots=True)
class RequestsSettings:
    """See each key's help."""

    SECTION: ClassVar[str] = "requests"
    enabled: bool = setting(False, "Take X-rays that are sent over MQTT, and answer with their results.")
    group: str = setting("", "Share the topic PREFIX/request with all agents of this group. Without: no sharing.")
    max_bytes: int = setting(32 * 2**20, "Larger images are refused.", least=1024, most=64 * 2**20)
    session_days: float = setting(7.0, "So long the broker keeps requests for this agent while it is away.", least=0)
