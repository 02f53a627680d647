"""The section [update]: another bundle by a retained message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firmware_bridge.settings import setting


@dataclass(frozen=True, slots=True)
class UpdateSettings:
    """See each key's help."""

    SECTION: ClassVar[str] = "update"
    enabled: bool = setting(False, "Fetch and run the signed bundle that a retained MQTT message names.")
