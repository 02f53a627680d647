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
    ca: Path | None = setting(None, "CA file (PEM) for mqtts. Without: the certificates that the system trusts.")
    cert: Path | None = setting(None, "Our own certificate (PEM), where the broker asks for one.")
    key: Path | None = setting(None, "Its key (PEM, not encrypted). Without: in the certificate's file.")
    telemetry_s: float = setting(60.0, "Seconds between two telemetry messages; 0 sends none.", least=0)
    heatmap: bool = setting(False, "Send the overlays as well (PNG), where the agent draws them.")
    discovery: bool = setting(False, "Tell Home Assistant about this device.")
    discovery_prefix: str = setting("homeassistant", "Home Assistant's discovery prefix.")
