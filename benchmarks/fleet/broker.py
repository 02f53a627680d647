"""How much memory and processor time a real Mosquitto needs for 100, 300, 1,000 devices.

python -m benchmarks.fleet.broker --out benchmarks/fleet/broker.json

Each line: the broker's resident memory with that many connections, and what a message costs it. The devices are real
paho MQTT 5 clients on sockets of this machine; they, the subscriber and the broker share its cores, so the messages per
second that are reached say what this machine's Python could send, and the broker's processor time what it could take.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.fleet.devices import RESULT, Devices
from firmware_bridge.errors import ConfigError
from firmware_bridge.mqtt_message import connect_properties
from tests.end_to_end.certificates import Authority

_LIMIT_S = 300.0


class Broker:
    """A Mosquitto of its own, with nothing kept from before.

    Args:
        folder: for its files.
        most_queued: messages that it keeps for a client that is away; None: Mosquitto's default of 1,000.
        tls: with certificates that are made for it (ECDSA, P-256).

    Attributes:
        ca: file to check its certificate against; None without TLS.
    """

    def __init__(self, folder: Path, *, most_queued: int | None, tls: bool = False) -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise ConfigError(
                "there is no MQTT broker to measure",
                expected="the program mosquitto",
                came="none on the path",
                do="apt-get install mosquitto",
            )
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = int(sock.getsockname()[1])
        config = folder / "mosquitto.conf"
        queued = "" if most_queued is None else f"max_queued_messages {most_queued}\n"
        self.ca: Path | None = None
        files = ""
        if tls:
            authority = Authority(folder, "ca")
            pair = authority.issue("broker")
            pair.key.chmod(0o644)  # Mosquitto gives up root before it reads it
            folder.chmod(0o755)
            self.ca = authority.cert
            files = f"certfile {pair.cert}\nkeyfile {pair.key}\n"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n{files}{queued}")
        self._process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
        deadline_s = time.monotonic() + 10
        while not self._answers():
            if time.monotonic() > deadline_s:
                self.close()
                raise TimeoutError("Mosquitto does not answer")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def resident_kb(self) -> int:
        """Memory of its own, without the pages that it shares with other programs."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

    @property
    def processor_s(self) -> float:
        """What it has used so far; Mosquitto has one thread."""
        return int(Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[0]) / 1e9

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


class Collector:
    """The hospital's subscriber to all results, in a thread of its own; its session outlives it by an hour."""

    def __init__(self, port: int, *, ca: Path | None = None) -> None:
        self._ca = ca
        self.came = 0
        self._subscribed = False
        self._port = port

    def start(self) -> None:
        """Connect, and go on where it was."""
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="collector", protocol=MQTTv5)
        if self._ca is not None:
            self._client.tls_set(ca_certs=str(self._ca))
        self._client.on_connect = lambda client, *_: client.subscribe("cxr-edge/+/result", qos=1)
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        properties = connect_properties()
        properties.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", self._port, clean_start=False, properties=properties)
        self._client.loop_start()
        self.wait(lambda: self._subscribed)

    def _on_subscribe(self, *_: Any) -> None:
        self._subscribed = True

    def _on_message(self, *_: Any) -> None:
        self.came += 1

    def wait(self, done: Any, *, quiet_s: float = _LIMIT_S) -> None:
        """Until it is done, or nothing has come for `quiet_s`."""
        before, since_s = self.came, time.monotonic()
        while not done():
            if self.came != before:
                before, since_s = self.came, time.monotonic()
            if time.monotonic() - since_s > quiet_s:
                return
            time.sleep(0.01)

    def stop(self) -> None:
        """Go away; the session stays."""
        self._client.disconnect()
        self._client.loop_stop()


def measure(count: int, each: int, *, tls: bool = False) -> dict[str, Any]:
    """What so many devices cost, with `each` results of every one of them at once."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Broker(Path(folder), most_queued=0, tls=tls)) as broker,  # 0: no limit
        closing(Devices(broker.port, count, ca=broker.ca)) as devices,
    ):
        empty_kb = broker.resident_kb
        collector = Collector(broker.port, ca=broker.ca)
        begun_s, used_s = time.monotonic(), broker.processor_s
        devices.connect()
        connect_s, connect_wall_s = broker.processor_s - used_s, time.monotonic() - begun_s
        connected_kb = broker.resident_kb
        # First while the collector is away, so that no memory is there that was freed before: what a result holds.
        collector.start()
        collector.stop()
        devices.burst(each)
        queued_kb = broker.resident_kb
        begun_s = time.monotonic()
        collector.start()
        collector.wait(lambda: collector.came == count * each)
        drained_s = time.monotonic() - begun_s
        used_s, begun_s = broker.processor_s, time.monotonic()
        devices.burst(each)
        collector.wait(lambda: collector.came == 2 * count * each)
        wall_s, result_s = time.monotonic() - begun_s, (broker.processor_s - used_s) / (count * each)
        used_s = broker.processor_s
        for _ in range(10):
            devices.telemetry()
        telemetry_s = (broker.processor_s - used_s) / (10 * count)
        collector.stop()
        assert collector.came == 2 * count * each, f"{collector.came} of {2 * count * each}"
    return {
        "devices": count,
        "empty_kb": empty_kb,
        "connected_kb": connected_kb,
        "connects_per_s": count / connect_wall_s,
        "broker_us_per_connect": 1e6 * connect_s / count,
        "queued_kb": queued_kb,
        "queued_bytes_per_result": 1024 * (queued_kb - connected_kb) / (count * each),
        "drained_per_s": count * each / drained_s,
        "results_per_s": count * each / wall_s,
        "broker_us_per_result": 1e6 * result_s,
        "broker_us_per_telemetry": 1e6 * telemetry_s,
        "load": os.getloadavg()[0],
    }


def lost(count: int, each: int) -> dict[str, Any]:
    """What a collector that was away finds, with Mosquitto's own limit of 1,000 messages for it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Broker(Path(folder), most_queued=None)) as broker,
        closing(Devices(broker.port, count)) as devices,
    ):
        collector = Collector(broker.port)
        devices.connect()
        collector.start()
        collector.stop()
        devices.burst(each)
        collector.start()
        collector.wait(lambda: collector.came == count * each, quiet_s=5.0)
        collector.stop()
    return {"sent": count * each, "refused": devices.refused, "came": collector.came}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--each", type=int, default=20, help="results of every device")
    parser.add_argument("--out", type=Path, help="JSON")
    asked = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    content: dict[str, Any] = {"result_bytes": len(RESULT), "each": asked.each, "runs": []}
    for count in asked.devices:
        content["runs"].append(measure(count, asked.each))
        sys.stdout.write(json.dumps(content["runs"][-1]) + "\n")
        sys.stdout.flush()
    content["tls"] = measure(asked.devices[-1], asked.each, tls=True)
    sys.stdout.write(json.dumps(content["tls"]) + "\n")
    content["default_queue"] = lost(100, 30)
    sys.stdout.write(json.dumps(content["default_queue"]) + "\n")
    if asked.out:
        asked.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"error: {error}")
