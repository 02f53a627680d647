"""The agent and the broker: every result arrives, oldest first, under one id, whoever is killed in between."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from toolkit.demo_broker import DemoBroker, Subscriber

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Agent, Listener, Mosquitto, Xrays

WAIT_S = 40.0
NO_RESULTS = "topic readwrite cxr-edge/+/status\ntopic read #\n"
EVERYTHING = "topic readwrite #\n"
FAST = ("--settle", "0.1", "--grace", "0.3")


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


@pytest.mark.mosquitto
def test_results_refusals_and_status_arrive(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto, listen: Callable[[int], Listener]
) -> None:
    mosquitto.start()
    listener = listen(mosquitto.port)
    ids = [xrays.put(agent.watch / f"Doe^Jane {number}.jpg", old=True) for number in range(10)]
    (agent.watch / "bad.jpg").write_bytes(b"no image")
    agent.start("--mqtt", mosquitto.url, *FAST)
    wait_for(lambda: len(listener.results) == 11, "all results")
    assert set(ids) < set(listener.ids())
    for record in listener.results:
        assert record["notice"].startswith("Not for diagnosis")
        assert "Doe" not in str(record)
        assert "name" not in record["image"]
    assert len([record for record in listener.results if "refused" in record]) == 1
    by_id = {record["id"]: record for record in listener.results}
    beside = agent.json("Doe^Jane 0.jpg")
    assert beside == by_id[ids[0]], "the same JSON beside the X-ray and on the stream"
    assert agent.terminate() == 0
    wait_for(lambda: listener.status[-1][1]["state"] == "stopped", "the goodbye")
    assert listener.status[0][1]["state"] == "online"
    assert "MQTT 5" in agent.log.read_text()
    late = last_status(mosquitto)
    assert late == (True, "stopped"), "the status is retained"


def last_status(mosquitto: Mosquitto) -> tuple[bool, str]:
    with Subscriber("127.0.0.1", mosquitto.port, "cxr-edge/+/status") as subscriber:
        message = subscriber.get(timeout_s=WAIT_S)
    assert message is not None
    return message.retained, message.json()["state"]


@pytest.mark.mosquitto
def test_a_killed_agent_is_shown_as_offline(
    agent: Agent, mosquitto: Mosquitto, listen: Callable[[int], Listener]
) -> None:
    mosquitto.start()
    listener = listen(mosquitto.port)
    agent.start("--mqtt", mosquitto.url)
    wait_for(lambda: listener.status, "the birth")
    agent.kill()
    wait_for(lambda: listener.status[-1][1]["state"] == "offline", "the will")


@pytest.mark.mosquitto
def test_the_broker_is_away_then_back(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto, listen: Callable[[int], Listener]
) -> None:
    ids = [xrays.put(agent.watch / f"{number}.jpg", old=True) for number in range(30)]
    agent.start("--mqtt", mosquitto.url)
    wait_for(lambda: agent.json("29.jpg") is not None, "scores without a broker")
    more = [xrays.put(agent.watch / f"more {number}.jpg") for number in range(30)]
    wait_for(lambda: all(agent.json(f"more {number}.jpg") for number in range(30)), "scores without a broker")
    mosquitto.start()
    listener = listen(mosquitto.port)
    wait_for(lambda: len(listener.results) >= 60, "all results after the broker came back")
    assert agent.terminate() == 0
    assert sorted(listener.ids()) == sorted(ids + more)
    assert listener.ids() == [id for (id,) in agent.journal("SELECT id FROM result ORDER BY seq")], "oldest first"


@pytest.mark.mosquitto
def test_a_single_run_without_a_broker_says_so_and_loses_nothing(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto, listen: Callable[[int], Listener]
) -> None:
    id = xrays.put(agent.watch / "a.jpg", old=True)
    assert agent.run("--mqtt", mosquitto.url, "--flush", "1") == 9
    assert "1 result not taken by the broker" in agent.log.read_text()
    mosquitto.start()
    listener = listen(mosquitto.port)
    assert agent.run("--mqtt", mosquitto.url) == 0
    wait_for(lambda: listener.ids() == [id], "the result of the first run")


@pytest.mark.mosquitto
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.soak)])
def test_the_broker_is_killed_again_and_again(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto, listen: Callable[[int], Listener], kills: int
) -> None:
    mosquitto.start()
    listener = listen(mosquitto.port)
    agent.start("--mqtt", mosquitto.url)
    ids, killed_s = [], []
    for turn in range(kills):
        connected = listener.subscribed
        ids += [xrays.put(agent.watch / f"{turn} {number}.jpg") for number in range(15)]
        time.sleep(random.uniform(0.1, 0.6))
        mosquitto.stop(how=signal.SIGKILL)
        killed_s.append(time.time())
        ids += [xrays.put(agent.watch / f"{turn} away {number}.jpg") for number in range(15)]
        # A killed Mosquitto 2.0 forgets sessions, and acknowledges what it then has no subscriber for. So it takes
        # results only once the listener is back; from then on it hands them over before it acknowledges them.
        mosquitto.acl.write_text(NO_RESULTS)
        mosquitto.start()
        wait_for(lambda before=connected: listener.subscribed > before, "the listener again")  # type: ignore[misc]
        mosquitto.acl.write_text(EVERYTHING)
        mosquitto.reload()
    sent_count = "SELECT count(*) FROM result WHERE sent_s IS NOT NULL"
    wait_for(lambda: agent.journal(sent_count) == [(30 * kills,)], "all sent")
    # What the broker acknowledged in the last moments before it was killed may have died with it on its way to the
    # listener: the publisher cannot know. Everything else arrives, and nothing under another id.
    sent = agent.journal("SELECT id, sent_s FROM result")
    at_risk = {name for name, sent_s in sent if any(-1.0 < killed - sent_s < 1.0 for killed in killed_s)}
    wait_for(lambda: set(ids) - set(listener.ids()) <= at_risk, "all received")
    assert set(listener.ids()) <= set(ids)
    assert agent.running
    lost, again = len(ids) - len(set(listener.ids())), len(listener.ids()) - len(set(listener.ids()))
    sys.stdout.write(f"{kills} kills, {len(ids)} results: {lost} died with the broker, {again} came twice\n")


@pytest.mark.mosquitto
def test_the_agent_is_killed_again_and_again(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto, listen: Callable[[int], Listener]
) -> None:
    mosquitto.start()
    listener = listen(mosquitto.port)
    ids: dict[str, str] = {}
    for turn in range(8):
        for number in range(25):
            name = f"{turn} {number}.jpg"
            ids[name] = xrays.put(agent.watch / name)
        agent.start("--mqtt", mosquitto.url, *FAST)
        # From "still importing" to "in the middle of it".
        time.sleep(random.uniform(0.2, 1.5))
        agent.kill()
    begun = agent.log.read_text().count("watching")
    agent.start("--mqtt", mosquitto.url, *FAST)
    # Everything may have been done before: a signal that comes while Python still imports ends it at once.
    wait_for(lambda: agent.log.read_text().count("watching") > begun, "the agent again")
    wait_for(lambda: len(set(listener.ids())) == len(ids), f"{len(set(listener.ids()))} of {len(ids)}")
    wait_for(lambda: agent.journal("SELECT count(*) FROM intake WHERE state!='done'") == [(0,)], "all accounted for")
    assert agent.terminate() == 0
    assert set(listener.ids()) == set(ids.values()), "none lost, none under another id"
    assert {name: agent.json(name)["id"] for name in ids} == ids
    assert [path.name for path in agent.watch.iterdir() if path.name.startswith(".")] == [], "nothing half done"
    assert agent.journal("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.mosquitto
def test_a_message_that_the_broker_refuses_stays_in_the_outbox(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto, listen: Callable[[int], Listener]
) -> None:
    mosquitto.acl.write_text(NO_RESULTS)
    mosquitto.start()
    listener = listen(mosquitto.port)
    id = xrays.put(agent.watch / "a.jpg", old=True)
    agent.start("--mqtt", mosquitto.url)
    wait_for(lambda: "refuses a message: Not authorized" in agent.log.read_text(), "the refusal")
    assert agent.journal("SELECT sent_s FROM result") == [(None,)]
    mosquitto.acl.write_text(EVERYTHING)
    mosquitto.reload()
    wait_for(lambda: listener.ids() == [id], "the result, once the broker takes it")
    wait_for(lambda: agent.journal("SELECT count(*) FROM result WHERE sent_s IS NULL") == [(0,)], "the mark")


def test_a_broker_without_mqtt_5(agent: Agent, xrays: Xrays) -> None:
    pytest.importorskip("amqtt", reason="needs the demo's broker: pip install 'cxr-edge[demo]'")
    ids = {xrays.put(agent.watch / f"{number}.jpg", old=True) for number in range(5)}
    with DemoBroker() as broker, Subscriber("127.0.0.1", broker.port, "cxr-edge/+/result") as subscriber:
        assert agent.run("--mqtt", broker.url) == 0
        received = [subscriber.get(timeout_s=WAIT_S) for _ in ids]
    assert {message.json()["id"] for message in received if message} == ids
    assert "connected (MQTT 3.1.1)" in agent.log.read_text()


@pytest.mark.parametrize("url", ["http://x", "mqtt://", "mqtt://u:secret@h", "mqtt://h:99999", "mqtt://h/a/#", "h"])
def test_a_wrong_address_is_told(agent: Agent, url: str) -> None:
    assert agent.run("--mqtt", url) == 2
    assert "secret" not in agent.log.read_text()
