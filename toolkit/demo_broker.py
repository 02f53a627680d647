"""An MQTT broker inside this process, for the demo: amqtt, a library made for it. It speaks MQTT 3.1.1 only.

Not for a clinic: no persistence, no access control, loopback only. There, install a broker (Mosquitto, EMQX, NanoMQ).
"""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from firmware_bridge.errors import BrokerError, MissingExtraError

_START_S = 10.0


class DemoBroker:
    """A broker on a free loopback port, for as long as the `with` lasts; `url` is what the agent's --mqtt takes.

    Raises:
        MissingExtraError: amqtt is not installed.
        BrokerError: it does not start.
    """

    def __init__(self) -> None:
        self.port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._started: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="demo broker", daemon=True)

    @property
    def url(self) -> str:
        """Address for `cxr-edge agent --mqtt`."""
        return f"mqtt://127.0.0.1:{self.port}"

    def __enter__(self) -> DemoBroker:
        self._thread.start()
        try:
            failure = self._started.get(timeout=_START_S)
        except queue.Empty:
            failure = TimeoutError(f"not within {_START_S:g} s")
        if isinstance(failure, ImportError):
            raise MissingExtraError.for_module("amqtt", "demo") from failure
        if failure is not None:
            raise BrokerError(
                "the demo's MQTT broker",
                expected="to start on a free loopback port",
                came=f"{type(failure).__name__}: {failure}",
                do="check that this user may listen on 127.0.0.1",
            ) from failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._end is not None:
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(_START_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._started.put(error)

    async def _serve(self) -> None:
        from amqtt.broker import Broker

        # It warns about each client that tries MQTT 5 first, as ours does.
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        broker = Broker(
            {
                "listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:0"}},
                "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
            }
        )
        await broker.start()
        # amqtt does not tell which port the kernel chose.
        (server,) = broker._servers.values()
        self.port = server.instance.sockets[0].getsockname()[1]
        self._started.put(None)
        await self._end.wait()
        await broker.shutdown()


@dataclass(frozen=True, slots=True)
class Received:
    """A message off the stream."""

    topic: str
    payload: bytes
    retained: bool

    def json(self) -> Any:
        """The payload as JSON."""
        return json.loads(self.payload)


class Subscriber:
    """Receives what is published under `topic`, for as long as the `with` lasts; subscribed when it is entered.

    Raises:
        BrokerError: the broker does not answer.
    """

    def __init__(self, host: str, port: int, topic: str = "#") -> None:
        from paho.mqtt.client import Client, MQTTv311
        from paho.mqtt.enums import CallbackAPIVersion

        self._where = (host, port)
        self._messages: queue.SimpleQueue[Received] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv311)
        self._client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _client, _data, message: self._messages.put(
            Received(message.topic, bytes(message.payload), bool(message.retain))
        )

    def __enter__(self) -> Subscriber:
        try:
            self._client.connect(*self._where)
        except OSError as error:
            raise self._no_answer(str(error)) from error
        self._client.loop_start()
        if not self._ready.wait(_START_S):
            self._client.loop_stop()
            raise self._no_answer(f"nothing within {_START_S:g} s")
        return self

    def _no_answer(self, came: str) -> BrokerError:
        host, port = self._where
        return BrokerError(f"MQTT broker {host}:{port}", expected="an answer", came=came, do="start the broker")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def get(self, *, timeout_s: float) -> Received | None:
        """The next message; None when none came in time."""
        try:
            return self._messages.get(timeout=timeout_s)
        except queue.Empty:
            return None
