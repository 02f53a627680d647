"""A DICOM file full of identifiers goes through everything that the agent tells: none of them comes out."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Agent, Mosquitto, until
from tests.end_to_end.dcmtk import identified, told


def collect(port: int, payloads: list[bytes]) -> object:
    from paho.mqtt.client import Client, MQTTMessage
    from paho.mqtt.enums import CallbackAPIVersion

    def on_message(_client: Client, _data: object, message: MQTTMessage) -> None:
        payloads.append(message.topic.encode() + b" " + message.payload)

    client = Client(CallbackAPIVersion.VERSION2, client_id="collector")
    client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.loop_start()
    return client


@pytest.mark.parametrize("good", [True, False], ids=["scored", "refused"])
def test_no_identifier_leaves_the_device(
    agent: Agent, mosquitto: Mosquitto, samples: Path, tmp_path: Path, good: bool
) -> None:
    mosquitto.start()
    payloads: list[bytes] = []
    client = collect(mosquitto.port, payloads)
    path = tmp_path / "x.dcm"
    identified(samples / "dicom" / "pneumonia_cr_monochrome1_12bit.dcm", path)
    if not good:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) - 5000])
        os.utime(path, (time.time() - 3600,) * 2)
    # The name tells the patient too.
    path.rename(agent.watch / "Sichelschmidt Wilhelmine 19421103.dcm")
    config = tmp_path / "agent.toml"
    config.write_text("[dicom]\nreport = true\ncapture = true\nbeside = true\n")
    agent.start("--config", str(config), "--mqtt", mosquitto.url)
    until(lambda: any(b"/result" in payload for payload in payloads), timeout_s=60)
    (result,) = [payload for payload in payloads if b"/result" in payload]
    assert (b'"probability"' in result) is good
    if good:
        until(lambda: list(agent.watch.rglob("*.cxr.sc.dcm")))
    assert agent.terminate() == 0
    client.loop_stop()  # type: ignore[attr-defined]
    for payload in payloads:
        assert told(payload) == [], payload
    assert told(agent.log.read_bytes()) == []
    for beside in agent.watch.rglob("*.cxr.*"):
        assert told(beside.read_bytes()) == []
    for ours in agent.state.rglob("*"):
        # The journal has to know under which name the file came.
        if ours.is_file() and "journal" not in ours.name:
            assert told(ours.read_bytes()) == [], ours.name
