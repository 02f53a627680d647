"""docs/mqtt.md: its config is what the agent runs with, its commands are run, its examples have the real fields."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.end_to_end.conftest import until
from toolkit.demo_broker import Received, Subscriber

if TYPE_CHECKING:
    from conftest import Agent, Mosquitto, Xrays

PAGE = Path(__file__).parents[2] / "docs" / "mqtt.md"
pytestmark = pytest.mark.mosquitto


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def run(block: str, mosquitto: Mosquitto, folder: Path) -> None:
    """Run shell lines as they stand, with this test's broker in the place of the one that they name."""
    if not shutil.which("mosquitto_pub"):
        pytest.skip("needs Mosquitto's clients: apt-get install mosquitto-clients")
    here = block.replace("-h broker.local", f"-h 127.0.0.1 -p {mosquitto.port}")
    subprocess.run(["bash", "-euc", here], cwd=folder, check=True, timeout=90, env=os.environ)


def shape(value: Any) -> Any:
    """The fields of an example, without its values."""
    return {name: shape(inner) for name, inner in value.items()} if isinstance(value, dict) else None


def start(agent: Agent, mosquitto: Mosquitto) -> None:
    config = agent.watch.parent / "agent.toml"
    config.write_text(blocks("toml")[0].replace("mqtt://broker.local", mosquitto.url))
    agent.start("--config", str(config), environment={"CXR_EDGE_MQTT_TELEMETRY_S": ""})
    until(lambda: "taking requests" in agent.log.read_text(), what="the agent")


def first(subscriber: Subscriber) -> Received:
    message = subscriber.get(timeout_s=60)
    assert message is not None
    return message


def test_the_commands_for_requests(agent: Agent, xrays: Xrays, mosquitto: Mosquitto, tmp_path: Path) -> None:
    mosquitto.start()
    start(agent, mosquitto)
    commands = [block for block in blocks("sh") if "mosquitto_pub" in block]
    assert len(commands) == 3
    for block in commands[:2]:
        image = xrays.make()
        (tmp_path / "chest.jpg").write_bytes(image)
        run(block, mosquitto, tmp_path)
        assert json.loads((tmp_path / "answer.json").read_text())["id"] == xrays.id_of(image)


def test_the_examples_are_like_the_real_ones(agent: Agent, mosquitto: Mosquitto, tmp_path: Path) -> None:
    mosquitto.start()
    discovery = "homeassistant/device/cxr_edge_ward-3/config"
    with Subscriber("127.0.0.1", mosquitto.port, "cxr-edge/ward-3/telemetry") as telemetry:
        start(agent, mosquitto)
        told = first(telemetry).json()
    with Subscriber("127.0.0.1", mosquitto.port, "cxr-edge/ward-3/status") as status:
        online = first(status)
    status_example, telemetry_example = (json.loads(block) for block in blocks("json"))
    assert online.retained
    assert shape(online.json()) == shape(status_example)
    # This machine may have no thermometer, and has not scored anything yet.
    assert set(told) <= set(telemetry_example)
    assert {"version", "uptime_s", "waiting_files", "memory_used_bytes", "disk_free_bytes"} <= set(told)
    assert all(type(telemetry_example[name]) is type(value) for name, value in told.items() if name != "load_1min")
    with Subscriber("127.0.0.1", mosquitto.port, discovery) as found:
        assert first(found).json()["device"]["name"] == "ward-3"
    (remove,) = [block for block in blocks("sh") if discovery in block]
    run(remove, mosquitto, tmp_path)
    with Subscriber("127.0.0.1", mosquitto.port, discovery) as found:
        assert found.get(timeout_s=1) is None


def test_the_access_list_lets_through_what_the_page_says(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Users by name, without passwords: the list is what is tested here."""
    (rules,) = blocks("text")
    mosquitto.acl.write_text(rules)
    mosquitto.start()
    config = agent.watch.parent / "agent.toml"
    address = mosquitto.url.replace("127.0.0.1", "ward-3@127.0.0.1")
    config.write_text(blocks("toml")[0].replace("mqtt://broker.local", address))
    agent.start("--config", str(config))
    until(lambda: "taking requests" in agent.log.read_text(), what="the agent")
    image = xrays.make()
    (tmp_path / "chest.jpg").write_bytes(image)
    commands = [block.replace("-h broker.local", "-h broker.local -u pacs") for block in blocks("sh")]
    run(commands[0], mosquitto, tmp_path)
    assert json.loads((tmp_path / "answer.json").read_text())["id"] == xrays.id_of(image)
    xrays.put(agent.watch / "a.jpg")
    unsent = "SELECT count(*) FROM result WHERE sent_s IS NULL"
    until(lambda: agent.journal("SELECT count(*) FROM result") == [(2,)], what="both results")
    until(lambda: agent.journal(unsent) == [(0,)], what="both sent")
    assert "Not authorized" not in agent.log.read_text()
