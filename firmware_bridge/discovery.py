"""The device as Home Assistant finds it: one retained message that names the topics. No X-ray is in it, nor a patient.

Home Assistant, "MQTT", section "Device discovery payload": topic PREFIX/device/OBJECT_ID/config, with `device`,
`origin` and `components`; the options that all components share stand at the root.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from firmware_bridge.files import short_hash
from firmware_bridge.mqtt_message import Message
from firmware_bridge.outbox_lanes import JSON
from firmware_bridge.result import NOTICE, dump

# The state is "stopped" too; Home Assistant knows but two words.
_AVAILABLE = "{{ 'online' if value_json.state == 'online' else 'offline' }}"
# A field that is left out (no sensor of that kind) is unknown, not an error in Home Assistant's log at every message.
_FIELD = "{{{{ value_json.{name} | default(None) }}}}"
_SENSORS: dict[str, dict[str, str]] = {
    "temperature_c": {
        "name": "Temperature",
        "device_class": "temperature",
        "unit_of_measurement": "°C",
        "state_class": "measurement",
    },
    "waiting_files": {"name": "Waiting X-rays", "state_class": "measurement", "icon": "mdi:tray-full"},
    "unsent_results": {"name": "Unsent results", "state_class": "measurement", "icon": "mdi:tray-arrow-up"},
    "infer_p95_ms": {
        "name": "Inference, 95th percentile",
        "unit_of_measurement": "ms",
        "device_class": "duration",
        "state_class": "measurement",
    },
    "disk_free_bytes": {
        "name": "Disk free",
        "device_class": "data_size",
        "unit_of_measurement": "B",
        "state_class": "measurement",
    },
    "memory_used_bytes": {
        "name": "Memory used",
        "device_class": "data_size",
        "unit_of_measurement": "B",
        "state_class": "measurement",
    },
}


def discovery_message(
    *, topic: str, device: str, version: str, bundle_name: str, label_positive: str, prefix: str = "homeassistant"
) -> Message:
    """The discovery message of a device.

    Args:
        topic: the device's own, below which `status`, `telemetry` and `result` lie.
        device: its name.
        version: of cxr-edge.
        bundle_name: what it scores with.
        label_positive: what a score is for.
        prefix: Home Assistant's discovery prefix.
    """
    object_id = "cxr_edge_" + _plain(device)
    components = {name: _sensor(object_id, name, f"{topic}/telemetry", options) for name, options in _SENSORS.items()}
    components["throttled"] = {
        **_sensor(object_id, "throttled", f"{topic}/telemetry", {"name": "Throttled", "device_class": "problem"}),
        "platform": "binary_sensor",
        # Where nobody can tell it is unknown, which is not the same as "no".
        "value_template": "{{ ('ON' if value_json.throttled else 'OFF') if 'throttled' in value_json else None }}",
    }
    components["connectivity"] = {
        **_sensor(object_id, "connectivity", f"{topic}/status", {"name": "Agent", "device_class": "connectivity"}),
        "platform": "binary_sensor",
        "value_template": _on_off("value_json.state == 'online'"),
        # It is what tells that the agent is away, so it must not be unavailable itself then.
        "availability": [],
    }
    components["problem"] = {
        **_sensor(object_id, "problem", f"{topic}/status", {"name": "Problem", "device_class": "problem"}),
        "platform": "binary_sensor",
        "value_template": _on_off("value_json.problems | default({}) | length > 0"),
    }
    components["last_score"] = {
        **_sensor(object_id, "probability", f"{topic}/result", {"name": f"Last score, {label_positive}"}),
        "icon": "mdi:percent-outline",
    }
    config = {
        "device": {
            "identifiers": [object_id],
            "name": device,
            "manufacturer": "cxr-edge",
            "model": bundle_name,
            "sw_version": version,
        },
        "origin": {"name": f"cxr-edge. {NOTICE}", "sw_version": version},
        "availability": [{"topic": f"{topic}/status", "value_template": _AVAILABLE}],
        "components": components,
        "qos": 1,
    }
    return Message(f"{prefix}/device/{object_id}/config", dump(config).encode(), retain=True, content_type=JSON)


def _plain(device: str) -> str:
    """The name in the letters that Home Assistant allows in a topic; two names never become one."""
    plain = re.sub(r"[^a-zA-Z0-9_-]", "_", device)
    return plain if plain == device else f"{plain}_{short_hash(device)[:8]}"


def _sensor(object_id: str, field: str, topic: str, options: Mapping[str, str]) -> dict[str, Any]:
    return {
        "platform": "sensor",
        "unique_id": f"{object_id}_{field}",
        "state_topic": topic,
        "value_template": _FIELD.format(name=field),
        **options,
    }


def _on_off(condition: str) -> str:
    return f"{{{{ 'ON' if {condition} else 'OFF' }}}}"
