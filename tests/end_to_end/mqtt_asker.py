"""A client that sends X-rays and collects the answers, as a PACS gateway would."""

from __future__ import annotations

import json
import threading
import time
from types import TracebackType
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTProtocolVersion, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


class Asker:
    """Connected and subscribed to its answers for as long as the `with` lasts."""

    def __init__(
        self, port: int, *, answers: str = "pacs/answers", name: str = "asker", protocol: MQTTProtocolVersion = MQTTv5
    ) -> None:
        self.answers_topic = answers
        self.answers: list[tuple[str, bytes | None, dict[str, Any]]] = []  # topic, correlation data, record
        self.came_s: list[float] = []  # when each of them came, by the monotonic clock
        self._port = port
        self._ready = threading.Event()
        self._five = protocol == MQTTv5
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol)
        self._client.on_connect = lambda client, *_: client.subscribe(answers, qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message

    def __enter__(self) -> Asker:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert self._ready.wait(20), "no SUBACK"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        if "/request" in message.topic:
            return  # a wide filter sees what goes in as well
        correlation = getattr(message.properties, "CorrelationData", None)
        self.came_s.append(time.monotonic())
        self.answers.append((message.topic, correlation, json.loads(message.payload)))

    def ask(
        self,
        topic: str,
        payload: bytes,
        *,
        correlation: bytes | None = None,
        response_topic: str | None = "",
        content_type: str | None = None,
        retain: bool = False,
        wait: bool = True,
        qos: int = 1,
    ) -> None:
        """Publish; `response_topic` "" is our own, None none."""
        properties = None
        if self._five:
            properties = Properties(PacketTypes.PUBLISH)
            if response_topic is not None:
                properties.ResponseTopic = response_topic or self.answers_topic
            if correlation is not None:
                properties.CorrelationData = correlation
            if content_type is not None:
                properties.ContentType = content_type
        info = self._client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        if wait:
            info.wait_for_publish(20)

    def by_correlation(self) -> dict[bytes, list[dict[str, Any]]]:
        """The records, by the correlation data that came back."""
        found: dict[bytes, list[dict[str, Any]]] = {}
        for _, correlation, record in self.answers:
            found.setdefault(correlation or b"", []).append(record)
        return found
