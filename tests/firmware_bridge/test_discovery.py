"""The Home Assistant discovery message: the fields that Home Assistant asks for, and nothing of a patient."""

from __future__ import annotations

import json
import re
from pathlib import Path

from firmware_bridge import telemetry
from firmware_bridge.discovery import discovery_message
from firmware_bridge.mqtt_message import Message
from firmware_bridge.result import NOTICE


def message(device: str = "box") -> Message:
    return discovery_message(
        topic=f"ward/{device}", device=device, version="1", bundle_name="demo", label_positive="pneumonia"
    )


def test_the_message_is_a_device_discovery_payload() -> None:
    sent = message()
    assert (sent.topic, sent.retain, sent.qos) == ("homeassistant/device/cxr_edge_box/config", True, 1)
    config = json.loads(sent.payload)
    assert config["device"]["identifiers"] == ["cxr_edge_box"]
    assert NOTICE in config["origin"]["name"]
    assert config["availability"][0]["topic"] == "ward/box/status"
    ids = [component["unique_id"] for component in config["components"].values()]
    assert len(set(ids)) == len(ids)
    for component in config["components"].values():
        assert component["platform"] in ("sensor", "binary_sensor")
        assert component["state_topic"].startswith("ward/box/")
    topics = {component["state_topic"].rpartition("/")[2] for component in config["components"].values()}
    assert topics == {"telemetry", "status", "result"}


def test_every_sensor_reads_a_field_that_telemetry_sends() -> None:
    config = json.loads(message().payload)
    code = Path(telemetry.__file__).read_text()
    for component in config["components"].values():
        if component["state_topic"].endswith("telemetry") and component["platform"] == "sensor":
            (field,) = re.findall(r"value_json\.(\w+)", component["value_template"])
            assert f'"{field}"' in code or re.sub(r"^(infer|decode)", 'f"{name}', field) in code


def test_odd_names_stay_apart_and_are_allowed_in_a_topic() -> None:
    topics = {message(name).topic for name in ("a b", "a_b", "a.b", "ü")}
    assert len(topics) == 4
    assert all(re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", topic) for topic in topics)
