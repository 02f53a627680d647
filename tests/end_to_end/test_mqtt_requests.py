"""Requests: X-rays sent over MQTT, answered where the sender asked for it; nothing lost, nothing answered twice."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from paho.mqtt.client import MQTTv311

from tests.end_to_end.mqtt_asker import Asker
from toolkit.demo_broker import DemoBroker

if TYPE_CHECKING:
    from conftest import Agent, Listener, Mosquitto, Xrays

pytestmark = pytest.mark.mosquitto
BOX = "cxr-edge/box/request"


def until(condition: Callable[[], object], what: str, *, timeout_s: float = 60.0) -> None:
    from tests.end_to_end.conftest import until as wait

    wait(condition, timeout_s=timeout_s, what=what)


def start(agent: Agent, mosquitto: Mosquitto, *options: str, device: str = "box", config: str = "") -> None:
    """Start an agent that takes requests, and wait until it does."""
    file = agent.watch.parent / "agent.toml"
    file.write_text(f"[requests]\nenabled = true\nmax_bytes = 2000000\n{config}")
    before = agent.log.read_text().count("taking requests") if agent.log.exists() else 0
    agent.start("--config", str(file), "--mqtt", mosquitto.url, "--device", device, *options)
    until(lambda: agent.log.read_text().count("taking requests") > before, "the subscription")


def test_an_answer_comes_back_with_its_correlation_data(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto, listen: Callable[[int], Listener]
) -> None:
    mosquitto.start()
    listener = listen(mosquitto.port)
    start(agent, mosquitto)
    first, second = xrays.make(), xrays.make()
    with Asker(mosquitto.port) as asker:
        asker.ask(BOX, first, correlation=b"\0one", content_type="image/jpeg")
        asker.ask(BOX, second, correlation=b"two")
        asker.ask(BOX, first, correlation=b"one again")
        asker.ask(BOX, xrays.make(), response_topic=None)
        until(lambda: len(asker.answers) == 3, "three answers")
        until(lambda: len(listener.results) == 3, "three results: the same picture is one")
        records = asker.by_correlation()
    assert set(records) == {b"\0one", b"two", b"one again"}
    assert records[b"\0one"][0] == records[b"one again"][0]
    assert records[b"\0one"][0]["id"] == xrays.id_of(first)
    assert records[b"two"][0]["notice"].startswith("Not for diagnosis")
    assert {record["id"]: record for record in listener.results}[xrays.id_of(second)] == records[b"two"][0]
    assert agent.terminate() == 0
    assert list((agent.state / "spool").iterdir()) == []
    assert list(agent.watch.iterdir()) == [], "nothing of a request is written to the watched folder"
    assert agent.journal("SELECT count(*) FROM reply WHERE sent_s IS NULL") == [(0,)]


def test_an_id_in_the_topic_stands_in_for_properties_with_mqtt_3(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto
) -> None:
    mosquitto.start()
    start(agent, mosquitto)
    image = xrays.make()
    with Asker(mosquitto.port, answers="cxr-edge/box/response/#", protocol=MQTTv311) as asker:
        asker.ask(f"{BOX}/study 7", image)
        asker.ask(f"{BOX}/bad", b"")
        until(lambda: len(asker.answers) == 2, "both answers")
        answers = {topic: record for topic, _, record in asker.answers}
    assert answers["cxr-edge/box/response/study 7"]["id"] == xrays.id_of(image)
    assert "empty" in answers["cxr-edge/box/response/bad"]["refused"]["what"]


def test_what_is_no_request_is_refused_and_the_agent_goes_on(agent: Agent, xrays: Xrays, mosquitto: Mosquitto) -> None:
    mosquitto.start()
    with Asker(mosquitto.port, name="early") as early:
        early.ask(BOX, xrays.make(), correlation=b"retained", retain=True)
    start(agent, mosquitto)
    image = xrays.make()
    with Asker(mosquitto.port) as asker:
        asker.ask(BOX, b"", correlation=b"empty")
        asker.ask(BOX, b"x" * 2_000_001, correlation=b"large")
        asker.ask(BOX, image, correlation=b"type", content_type="text/html")
        asker.ask(BOX, b"no image at all", correlation=b"noise")
        asker.ask(BOX, image[: len(image) // 2], correlation=b"half")
        asker.ask(f"{BOX}/a/b", image, correlation=b"two levels")
        # What its sender can read nothing into: these get no answer.
        asker.ask(BOX, image, correlation=b"own", response_topic="cxr-edge/other/status")
        asker.ask(BOX, image, correlation=b"sys", response_topic="$SYS/x")
        asker.ask(BOX, image, correlation=b"discovery", response_topic="homeassistant/device/x/config")
        asker.ask(BOX, image, correlation=b"x" * 2000)
        asker.ask(BOX, image, correlation=b"poison", content_type="\ufeff")
        asker.ask(BOX, image, correlation=b"good")
        until(lambda: b"good" in asker.by_correlation(), "the good one, behind all the others")
        until(lambda: len(asker.answers) == 6, "a word to everybody who can be told")
        records = {name: record for name, (record,) in asker.by_correlation().items()}
    assert set(records) == {b"empty", b"large", b"type", b"noise", b"half", b"good"}
    for name in (b"empty", b"large", b"type", b"noise", b"half"):
        assert set(records[name]["refused"]) == {"what", "expected", "came", "do"}
        assert records[name]["notice"].startswith("Not for diagnosis")
    assert records[b"good"]["id"] == xrays.id_of(image)
    assert agent.terminate() == 0


def test_a_flood_of_refused_requests_does_not_fill_the_journal(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto
) -> None:
    mosquitto.start()
    start(agent, mosquitto)
    with Asker(mosquitto.port) as asker:
        for number in range(1300):
            asker.ask(BOX, b"", correlation=b"%d" % number, wait=False)
        image = xrays.make()
        asker.ask(BOX, image, correlation=b"good")
        until(lambda: len(asker.answers) == 1301, "an answer for each of them")
    assert agent.terminate() == 0
    ((kept,),) = agent.journal("SELECT count(*) FROM reply")
    assert 1000 <= kept <= 1250


def test_a_sender_that_may_not_read_its_answers_does_not_hold_up_others(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto
) -> None:
    mosquitto.acl.write_text("topic readwrite cxr-edge/#\ntopic readwrite pacs/#\n")
    mosquitto.start()
    start(agent, mosquitto)
    with Asker(mosquitto.port) as asker:
        asker.ask(BOX, xrays.make(), correlation=b"1", response_topic="forbidden/x")
        asker.ask(BOX, xrays.make(), correlation=b"2")
        until(lambda: asker.answers, "the second answer")
    until(lambda: agent.journal("SELECT count(*) FROM reply WHERE sent_s IS NULL") == [(0,)], "the first given up")
    assert agent.journal("SELECT failure FROM reply ORDER BY seq") == [("Not authorized",), (None,)]


def test_requests_sent_while_the_agent_is_away_are_answered(agent: Agent, xrays: Xrays, mosquitto: Mosquitto) -> None:
    mosquitto.start()
    start(agent, mosquitto)
    assert agent.terminate() == 0
    with Asker(mosquitto.port) as asker:
        for number in range(10):
            asker.ask(BOX, xrays.make(), correlation=b"%d" % number)
        start(agent, mosquitto)
        until(lambda: len(asker.answers) == 10, "all answers")
        assert set(asker.by_correlation()) == {b"%d" % number for number in range(10)}


# The agent itself, killed at the worst moment: the journal has the request, the broker has no acknowledgement.
DIES_BEFORE_ACKNOWLEDGING = """
import os, signal
from firmware_bridge.mqtt_connection import Connection
whole = Connection.acknowledge
def acknowledge(self, message):
    if not os.path.exists(os.environ["DIED"]):
        open(os.environ["DIED"], "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self, message)
Connection.acknowledge = acknowledge
from toolkit.cli.main import main
main()
"""


@pytest.mark.parametrize("payload", ["image", "empty"])
def test_one_answer_though_the_agent_died_between_journal_and_acknowledgement(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: str
) -> None:
    script = tmp_path / "dies.py"
    script.write_text(DIES_BEFORE_ACKNOWLEDGING)
    monkeypatch.setenv("DIED", str(tmp_path / "died"))
    agent.program = [str(script)]
    mosquitto.start()
    start(agent, mosquitto)
    image = xrays.make() if payload == "image" else b""
    with Asker(mosquitto.port) as asker:
        asker.ask(BOX, image, correlation=b"once")
        assert agent.wait() == -9
        start(agent, mosquitto)
        asker.ask(BOX, xrays.make(), correlation=b"after")
        until(lambda: b"after" in asker.by_correlation(), "the answer to the one behind")
        assert len(asker.by_correlation()[b"once"]) == 1
    assert agent.journal("SELECT count(*) FROM reply") == [(2,)]


def test_two_agents_share_a_stream_and_a_killed_one_loses_nothing(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto, tmp_path: Path, bundle_file: Path
) -> None:
    from tests.end_to_end.conftest import Agent as AgentProcess

    mosquitto.start()
    (tmp_path / "other").mkdir()
    other = AgentProcess(tmp_path / "other", bundle_file)
    group = 'group = "ward"\n'
    start(agent, mosquitto, config=group)
    start(other, mosquitto, device="box2", config=group)
    try:
        with Asker(mosquitto.port, answers="cxr-edge/response/#") as asker:
            for number in range(60):
                asker.ask(f"cxr-edge/request/{number}", xrays.make(), response_topic=None)
                if number == 30:
                    other.kill()
            start(other, mosquitto, device="box2", config=group)
            topics = {f"cxr-edge/response/{number}" for number in range(60)}
            until(lambda: {topic for topic, _, _ in asker.answers} == topics, "an answer to each", timeout_s=90)
        shares = [one.journal("SELECT count(*) FROM reply")[0][0] for one in (agent, other)]
        assert min(shares) > 0, f"both worked: {shares}"
        assert sum(shares) == 60
        assert other.terminate() == 0
    finally:
        if other.running:
            other.kill()


def test_a_flood_waits_with_the_broker_and_is_answered_to_the_last(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto
) -> None:
    mosquitto.start()
    start(agent, mosquitto)
    with Asker(mosquitto.port) as asker:
        for number in range(600):
            asker.ask(BOX, xrays.make() if number % 3 else b"noise %d" % number, correlation=b"%d" % number, wait=False)
        until(lambda: len(asker.answers) >= 600, "all answers", timeout_s=180)
        assert sorted(asker.by_correlation(), key=int) == [b"%d" % number for number in range(600)]
        assert len(asker.answers) == 600
    assert agent.terminate() == 0


def test_requests_without_a_broker_are_told(agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("[requests]\nenabled = true\n")
    assert agent.run("--config", str(file)) == 2
    assert "requests without a broker" in agent.log.read_text()
    file.write_text('[mqtt]\nurl = "mqtt://127.0.0.1:1"\n[requests]\nenabled = true\ngroup = "a/b"\n')
    assert agent.run("--config", str(file)) == 2


def test_a_group_that_was_left_is_unsubscribed(agent: Agent, xrays: Xrays, mosquitto: Mosquitto) -> None:
    mosquitto.start()
    start(agent, mosquitto, config='group = "old"\n')
    assert agent.terminate() == 0
    start(agent, mosquitto)
    with Asker(mosquitto.port, answers="cxr-edge/#") as asker:
        asker.ask("cxr-edge/request/to-the-group", xrays.make(), response_topic=None, wait=True)
        asker.ask(f"{BOX}/to-me", xrays.make(), response_topic=None)
        until(lambda: any(topic.endswith("response/to-me") for topic, _, _ in asker.answers), "the second")
        assert not [topic for topic, _, _ in asker.answers if topic.endswith("response/to-the-group")]


def damaged(rng: random.Random, whole: bytes) -> bytes:
    """An image file with some bytes changed, cut, doubled or put in."""
    data = bytearray(whole)
    for _ in range(rng.randrange(1, 8)):
        if not data:
            return b""
        place = rng.randrange(len(data))
        how = rng.randrange(5)
        if how == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[place : place + 4] = b"\xff" * 4
        elif how == 2:
            del data[place : place + rng.randrange(1, 2000)]
        elif how == 3:
            data[place:place] = data[place : place + rng.randrange(1, 500)]
        else:
            data = data[: place + 1]
    return bytes(data)


def memory_bytes(agent: Agent) -> int:
    assert agent.pid is not None
    status = Path(f"/proc/{agent.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024


@pytest.mark.parametrize("count", [250, pytest.param(10_000, marks=pytest.mark.soak)])
def test_damaged_requests_are_all_answered_and_memory_stays(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto, samples: Path, count: int
) -> None:
    """JPEG, PNG, TIFF and DICOM, damaged; content types and correlation data at random. Each gets one answer."""
    rng = random.Random(7)
    files = [path.read_bytes() for path in sorted(samples.glob("dicom/*"))]
    kinds = [None, "image/jpeg", "application/dicom", "text/html", "\ufeff", "x" * 3000, "image/png"]
    mosquitto.start()
    start(agent, mosquitto)
    expected: set[bytes] = set()
    early = 0
    with Asker(mosquitto.port) as asker:
        for number in range(count):
            whole = xrays.make() if rng.random() < 0.8 or not files else rng.choice(files)[:400_000]
            correlation, kind = b"%d-" % number + rng.randbytes(rng.randrange(40)), rng.choice(kinds)
            asker.ask(BOX, damaged(rng, whole), correlation=correlation, content_type=kind)
            if kind != "\ufeff":
                expected.add(correlation)
            if number % 100 == 99:  # an image at a time is decoded: the broker's queue must not run over
                until(lambda: len(asker.answers) >= len(expected) - 50, "answers", timeout_s=120)
            if number == count // 2:  # by then every decoder is loaded
                early = memory_bytes(agent)
        until(lambda: len(asker.answers) >= len(expected), "an answer to each", timeout_s=120)
        assert set(asker.by_correlation()) == expected
        assert len(asker.answers) == len(expected)
    late = memory_bytes(agent)
    sys.stdout.write(f"{count} damaged requests: {early / 2**20:.0f} MiB half-way, {late / 2**20:.0f} at the end\n")
    assert late < early * 1.1 + 20 * 2**20
    assert agent.terminate() == 0


def test_a_broker_without_mqtt_5(agent: Agent, xrays: Xrays) -> None:
    pytest.importorskip("amqtt", reason="needs the demo's broker: pip install 'cxr-edge[demo]'")
    image = xrays.make()
    with DemoBroker() as broker, Asker(broker.port, answers="cxr-edge/box/response/+", protocol=MQTTv311) as asker:
        file = agent.watch.parent / "agent.toml"
        file.write_text("[requests]\nenabled = true\n")
        agent.start("--config", str(file), "--mqtt", broker.url, "--device", "box")
        until(lambda: "taking requests" in agent.log.read_text(), "the subscription")
        asker.ask(f"{BOX}/7", image)
        until(lambda: asker.answers, "the answer")
        assert asker.answers[0][2]["id"] == xrays.id_of(image)
        assert agent.terminate() == 0
