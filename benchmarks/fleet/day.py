"""A day of many devices behind one broker, event by event.

What is not assumed: the telemetry interval is the agent's own, waits between attempts come from its own `Backoff`, at
most 16 results of a device are in flight, as in its outbox. What a message costs the broker is measured (broker.py).
The rest is assumed, and stands in `Assumed`.
"""

from __future__ import annotations

import functools
import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.fleet.devices import IN_FLIGHT
from firmware_bridge.backoff import Backoff
from firmware_bridge.mqtt_settings import MqttSettings

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
KINDS = "result", "status", "telemetry"
# X-rays by hour, as shares of the busiest hour: a hospital with a day shift and an emergency room.
PROFILE = (8, 6, 5, 5, 5, 8, 15, 40, 85, 100, 100, 95, 80, 85, 90, 85, 70, 50, 40, 35, 30, 25, 18, 12)


@dataclass(frozen=True)
class Assumed:
    """What nobody measured.

    Attributes:
        devices: how many.
        xrays_per_day: of each device, on average (Poisson, by the hours of `PROFILE`).
        score_s: for an X-ray on a device, one after the other.
        round_trip_s: from device to broker and back, without the broker's own work.
        away_per_day: how often a device loses its network, on average (exponential).
        away_s: for so long, on average (exponential).
        outage_from_s: when the broker goes away for all.
        outage_s: for so long.
        seed: of all chance.
    """

    devices: int = 1000
    xrays_per_day: float = 60.0
    score_s: float = 0.5
    round_trip_s: float = 0.02
    away_per_day: float = 1.0
    away_s: float = 600.0
    outage_from_s: float = 10 * HOUR_S
    outage_s: float = 2 * HOUR_S
    seed: int = 1


@dataclass
class Device:
    """One device. Results are known by the moment at which they were scored.

    Attributes:
        waiting: in its journal, not sent yet, oldest first.
        in_flight: sent, not acknowledged.
        connection: counts its connections, so that what belonged to an older one is known.
        idle_s: when it will have scored all that it has.
    """

    waiting: deque[float] = field(default_factory=deque)
    in_flight: deque[float] = field(default_factory=deque)
    connection: int = 0
    online: bool = False
    network: bool = True
    idle_s: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def unsent(self) -> int:
        """Results that the broker has not acknowledged."""
        return len(self.waiting) + len(self.in_flight)


class Fleet:
    """The day; `run` it, then look.

    Args:
        assumed: see there.
        cost_s: what a message of each kind costs the broker: kind -> seconds of its one thread.

    Attributes:
        per_s: kind -> messages in each second of the day; "connect": attempts to connect.
        unsent: results that wait on devices, at each second.
        most_unsent: of one device.
        ages_s: of each result, when its device knew that the broker had it.
        scored: X-rays.
        broker_busy_s: of its one thread.
    """

    def __init__(self, assumed: Assumed, *, cost_s: dict[str, float]) -> None:
        self._assumed = assumed
        self._cost_s = cost_s
        self._random = random.Random(assumed.seed)
        self._events: list[tuple[float, int, functools.partial[None]]] = []
        self._number = 0
        self._now_s = 0.0
        self._broker_up = True
        self._broker_idle_s = 0.0
        self.devices = [Device() for _ in range(assumed.devices)]
        self.per_s: dict[str, NDArray[np.float64]] = {kind: np.zeros(int(DAY_S)) for kind in (*KINDS, "connect")}
        self.unsent = np.zeros(int(DAY_S))
        self._unsent = 0
        self.most_unsent = 0
        self.ages_s: list[float] = []
        self.scored = 0
        self.broker_busy_s = 0.0

    def run(self) -> None:
        """From midnight to midnight."""
        random.seed(self._assumed.seed)  # `Backoff` draws from there
        for device in self.devices:
            self._at(self._random.uniform(0, 60), self._connect, device)
            for arrival_s in self._arrivals():
                self._at(arrival_s, self._arrive, device)
            self._at(self._next_away_s(), self._network_goes, device)
        self._at(self._assumed.outage_from_s, self._broker_goes)
        self._at(self._assumed.outage_from_s + self._assumed.outage_s, self._broker_comes)
        self._at(0.0, self._look, 0)
        while self._events and self._events[0][0] < DAY_S:
            self._now_s, _, event = heapq.heappop(self._events)
            event()

    def _at(self, when_s: float, event: Callable[..., None], *arguments: Device | int) -> None:
        self._number += 1
        heapq.heappush(self._events, (when_s, self._number, functools.partial(event, *arguments)))

    def _arrivals(self) -> list[float]:
        found = []
        for hour, share in enumerate(PROFILE):
            per_s = self._assumed.xrays_per_day * share / sum(PROFILE) / HOUR_S
            into_s = self._random.expovariate(per_s)
            while into_s < HOUR_S:
                found.append(hour * HOUR_S + into_s)
                into_s += self._random.expovariate(per_s)
        return found

    def _next_away_s(self) -> float:
        return self._now_s + self._random.expovariate(self._assumed.away_per_day / DAY_S)

    def _look(self, second: int) -> None:
        self.unsent[second] = self._unsent
        self._at(second + 1.0, self._look, second + 1)

    def _arrive(self, device: Device) -> None:
        device.idle_s = max(self._now_s, device.idle_s) + self._assumed.score_s
        self._at(device.idle_s, self._score, device)

    def _score(self, device: Device) -> None:
        self.scored += 1
        self._unsent += 1
        device.waiting.append(self._now_s)
        self.most_unsent = max(self.most_unsent, device.unsent)
        self._send(device)

    def _send(self, device: Device) -> None:
        while device.online and device.waiting and len(device.in_flight) < IN_FLIGHT:
            device.in_flight.append(device.waiting.popleft())
            done_s = self._serve("result") + self._assumed.round_trip_s
            self._at(done_s, self._acknowledged, device, device.connection)

    def _acknowledged(self, device: Device, connection: int) -> None:
        if device.connection == connection and device.online:
            self._unsent -= 1
            self.ages_s.append(self._now_s - device.in_flight.popleft())
            self._send(device)

    def _connect(self, device: Device) -> None:
        if not device.network:
            self._at(self._now_s + device.backoff.failed(), self._connect, device)
            return
        self.per_s["connect"][int(self._now_s)] += 1
        if not self._broker_up:
            self._at(self._now_s + device.backoff.failed(), self._connect, device)
            return
        device.online = True
        device.connection += 1
        device.backoff.good()
        self._serve("status")
        self._telemetry(device, device.connection)
        self._send(device)

    def _telemetry(self, device: Device, connection: int) -> None:
        if device.online and device.connection == connection:
            self._serve("telemetry")
            self._at(self._now_s + MqttSettings().telemetry_s, self._telemetry, device, connection)

    def _disconnected(self, device: Device) -> None:
        """What was in flight is sent again: nobody knows whether the broker had it."""
        device.online = False
        device.waiting.extendleft(reversed(device.in_flight))
        device.in_flight.clear()
        self._at(self._now_s + device.backoff.failed(), self._connect, device)

    def _network_goes(self, device: Device) -> None:
        device.network = False
        if device.online:
            self._serve("status")  # the last will
            self._disconnected(device)
        self._at(self._now_s + self._random.expovariate(1 / self._assumed.away_s), self._network_comes, device)

    def _network_comes(self, device: Device) -> None:
        device.network = True
        self._at(self._next_away_s(), self._network_goes, device)

    def _broker_goes(self) -> None:
        self._broker_up = False
        for device in self.devices:
            if device.online:
                self._disconnected(device)

    def _broker_comes(self) -> None:
        self._broker_up = True
        self._broker_idle_s = self._now_s

    def _serve(self, kind: str) -> float:
        """One message, in its turn; when the broker is done with it."""
        self.per_s[kind][int(self._now_s)] += 1
        self.broker_busy_s += self._cost_s[kind]
        self._broker_idle_s = max(self._broker_idle_s, self._now_s) + self._cost_s[kind]
        return self._broker_idle_s
