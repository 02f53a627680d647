"""The outbox in this process, against a real broker: limits and lanes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from firmware_bridge.heatmaps import Heatmaps
from firmware_bridge.journal import Arrival, Journal, Outcome, ReplyTo
from firmware_bridge.mqtt import Broker
from firmware_bridge.outbox import Outbox
from firmware_bridge.outbox_lanes import Replies
from firmware_bridge.result import NOTICE
from tests.end_to_end.conftest import until

if TYPE_CHECKING:
    from conftest import Mosquitto

pytestmark = pytest.mark.mosquitto


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "state")
    yield opened
    opened.close()


def add(journal: Journal, *records: str, reply: ReplyTo | None = None) -> None:
    for record in records:
        path = Path("/x") / f"{journal.counts().results}"
        (row,) = journal.take([Arrival(path, str(path), 1, 1)], reply=reply, kind="mqtt" if reply else "")
        journal.settle([Outcome(row.seq, row.path, str(path), record)])


@contextmanager
def running(mosquitto: Mosquitto, journal: Journal, **more: Any) -> Iterator[Outbox]:
    outbox = Outbox(Broker("127.0.0.1", mosquitto.port), journal, device="box", status=dict, **more)
    thread = threading.Thread(target=outbox.run)
    thread.start()
    try:
        yield outbox
    finally:
        outbox.stop()
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def subscribed(mosquitto: Mosquitto, topic: str) -> Iterator[list[MQTTMessage]]:
    came: list[MQTTMessage] = []
    ready = threading.Event()
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _client, _data, message: came.append(message)
    client.connect("127.0.0.1", mosquitto.port)
    client.loop_start()
    assert ready.wait(20)
    try:
        yield came
    finally:
        client.disconnect()
        client.loop_stop()


def test_a_result_that_is_too_large_for_the_broker_waits_and_holds_up_no_other(
    mosquitto: Mosquitto, journal: Journal
) -> None:
    mosquitto.more = "max_packet_size 2000\n"
    mosquitto.start()
    large = '{"n":"' + "x" * 3000 + '"}'
    add(journal, '{"n":1}', large, '{"n":3}')
    add(journal, large, reply=ReplyTo("asker/answers", b"c"))
    problems: list[str | None] = []
    replies = Replies(journal, "mqtt")
    with (
        subscribed(mosquitto, "cxr-edge/box/result") as came,
        running(mosquitto, journal, problem=problems.append, more=[replies]),
    ):
        until(lambda: len(came) == 2, what="the two small ones")
        until(lambda: journal.counts().unanswered == 0, what="the answer given up")
        assert [message.payload for message in came] == [b'{"n":1}', b'{"n":3}']
    assert journal.counts().unsent == 2, "the large results are in the journal"
    assert any(problem and "2000 bytes at most" in problem for problem in problems)


def test_heat_maps_have_a_topic_of_their_own(mosquitto: Mosquitto, journal: Journal, tmp_path: Path) -> None:
    mosquitto.start()
    add(journal, '{"explanation":{"inside":0.9}}')
    maps = Heatmaps(journal, "cxr-edge/box", tmp_path, most=2)
    (tmp_path / "done").mkdir()
    for number, name in enumerate(["refused", "dropped", "filed", "late"]):
        (row,) = journal.take([Arrival(tmp_path / name, name, 1, 1)])
        record = '{"refused":{}}' if name == "refused" else '{"explanation":{"inside":0.9}}'
        journal.settle([Outcome(row.seq, row.path, f"id-{name}", record)])
        folder = tmp_path / "done" if name == "filed" else tmp_path
        (folder / f"{name}.cxr.json").write_text(f'{{"id": "id-{name}"}}')
        if name != "late":
            (folder / f"{name}.cxr.png").write_bytes(b"\x89PNG\r\n\x1a\n %d" % number)
    with subscribed(mosquitto, "cxr-edge/box/heatmap/+") as came, running(mosquitto, journal, more=[maps]):
        until(lambda: len(came) == 1, what="the one that is drawn")
        (tmp_path / "late.cxr.png").write_bytes(b"\x89PNG\r\n\x1a\n late")
        until(lambda: len(came) == 2, what="the other")
        assert [message.topic.rpartition("/")[2] for message in came] == ["id-filed", "id-late"]
        assert [message.payload for message in came] == [b"\x89PNG\r\n\x1a\n 2", b"\x89PNG\r\n\x1a\n late"]
        properties: Any = came[0].properties
        assert properties.ContentType == "image/png"
        assert dict(properties.UserProperty) == {"result": "id-filed", "notice": NOTICE}
        until(lambda: maps.due(limit=9) == [], what="the acknowledgements")


def test_telemetry_comes_at_once_and_then_again(mosquitto: Mosquitto, journal: Journal) -> None:
    mosquitto.start()
    with (
        subscribed(mosquitto, "cxr-edge/box/telemetry") as came,
        running(mosquitto, journal, telemetry=lambda: {"uptime_s": 1}, telemetry_s=0.2),
    ):
        until(lambda: len(came) >= 3, what="three")
        assert came[0].qos == 0
        assert not came[0].retain
