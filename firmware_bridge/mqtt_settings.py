"""The section [mqtt]: where results are sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from firmware_bridge.settings import setting


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """See each key's help."""

    SECTION: ClassVar[str] = "mqtt"
    url: str = setting("", "mqtt[s]://[user@]host[:port][/prefix]. Without: no MQTT.", environment="CXR_EDGE_MQTT")
    password_file: Path | None = setting(None, "File with the password; or set CXR_EDGE_MQTT_PASSWORD.")
    ca: Path | None = setting(None, "CA file for mqtts.")
