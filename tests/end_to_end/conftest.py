"""A real agent process, a real Mosquitto, real X-rays."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from firmware_bridge.bundle import open_bundle
from firmware_bridge.manifest import CalibrationEntry, LungsEntry, ModelEntry
from firmware_bridge.result import result_id
from toolkit.bundle import build_bundle
from toolkit.lungs.asset import packaged_lungs
from toolkit.schema import schema_of

DATA = Path(__file__).resolve().parent.parent / "data"
DEADLINE_S = 30.0
RECORDS = Draft202012Validator(schema_of("result"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "mosquitto: needs the MQTT broker Mosquitto (apt-get install mosquitto)")


def until(condition: Callable[[], Any], *, timeout_s: float = DEADLINE_S, what: str = "") -> Any:
    """Wait for it, and return what it returned."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            pytest.fail(f"not within {timeout_s:g} s: {what or condition}")
        time.sleep(0.02)
    return value


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="session")
def bundle_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the tiny model: what it says means nothing, but it says it fast."""
    entry = ModelEntry("models/model.int8.tflite", "int8", "models/head.int8.npy", CalibrationEntry(1.0, 0.0, 0.45))
    return build_bundle(
        tmp_path_factory.mktemp("bundle") / "tiny.cxr",
        name="tiny",
        labels=("NORMAL", "PNEUMONIA"),
        preprocessing={"version": 1, "steps": [{"name": "resize", "size_px": 32}]},
        models=[entry],
        files={entry.file: DATA / "tiny.int8.tflite", entry.head: DATA / "tiny.head.npy"},
        created="2026-01-01T00:00:00Z",
    )


@pytest.fixture(scope="session")
def lungs_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model behind the lung network that ships."""
    entry = ModelEntry("models/model.int8.tflite", "int8", "models/head.int8.npy", CalibrationEntry(1.0, 0.0, 0.45))
    steps = [
        {"name": "lungs", "margin": 0.1},
        {"name": "resize", "size_px": 32},
        {"name": "clahe", "clip_limit": 2.0, "tiles": 2},
    ]
    lungs = LungsEntry("models/lungs.int8.tflite", 1)
    return build_bundle(
        tmp_path_factory.mktemp("lungs") / "lungs.cxr",
        name="lungs",
        labels=("NORMAL", "PNEUMONIA"),
        preprocessing={"version": 1, "steps": steps},
        models=[entry],
        files={
            entry.file: DATA / "tiny.int8.tflite",
            entry.head: DATA / "tiny.head.npy",
            lungs.file: packaged_lungs(),
        },
        lungs=lungs,
        created="2026-01-01T00:00:00Z",
    )


class Xrays:
    """Makes X-rays without end: a real one, told apart by a comment in its file."""

    def __init__(self, samples: Path, bundle_id: str) -> None:
        self._real = [path.read_bytes() for path in sorted(samples.glob("chest_xray/**/*.jp*g"))]
        self._bundle_id = bundle_id
        self._made = 0

    def make(self) -> bytes:
        self._made += 1
        real = self._real[self._made % len(self._real)]
        return real[:2] + b"\xff\xfe\x00\x0a" + b"%08d" % self._made + real[2:]

    def put(self, path: Path, *, old: bool = False) -> str:
        """Put one into a folder, at once, and return the id that its result must have."""
        data = self.make()
        hidden = path.with_name(f".{path.name}")
        hidden.write_bytes(data)
        if old:
            os.utime(hidden, (time.time() - 3600, time.time() - 3600))
        hidden.rename(path)
        return self.id_of(data)

    def id_of(self, data: bytes) -> str:
        return result_id(hashlib.sha256(data).hexdigest(), self._bundle_id)


@pytest.fixture
def xrays(samples: Path, bundle_file: Path) -> Xrays:
    with open_bundle(bundle_file) as bundle:
        return Xrays(samples, bundle.id)


class Agent:
    """An agent process on folders of its own; started and stopped at will."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.watch = folder / "watched"
        self.state = folder / "state"
        self.log = folder / "agent.log"
        self.bundle = bundle
        self.program = ["-m", "toolkit.cli.main"]
        self.inside: list[str] = []  # a command that runs it in surroundings of its own
        self.watch.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, environment: dict[str, str] | None = None) -> None:
        command = [*self.inside, sys.executable, *self.program, "agent", "--watch", str(self.watch)]
        command += ["--bundle", str(self.bundle), "--state", str(self.state), *options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(environment or {})})

    def run(self, *options: str) -> int:
        """`--once`, to its end."""
        self.start("--once", *options)
        return self.wait()

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(DEADLINE_S)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        """Stop it in order, however young it is."""
        assert self._process is not None
        until(lambda: not self.running or self.minds(signal.SIGTERM, "SigBlk", "SigCgt"))
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def minds(self, number: int, *masks: str) -> bool:
        """Whether a signal is in one of these masks (proc(5), /proc/PID/status). Python itself needs a moment."""
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            found = [int(line.split()[1], 16) for line in lines if line.partition(":")[0] in masks]
            return any(mask >> (number - 1) & 1 for mask in found)
        return False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def json(self, name: str) -> Any:
        """What lies beside a file, where it was or where it was filed; None when nothing does. Never half a JSON.

        Whatever test asks: the record is right under the published schema.
        """
        for folder in ("", "done", "rejected"):
            path = self.watch / folder / f"{name}.cxr.json"
            if path.exists():
                record = json.loads(path.read_bytes())
                RECORDS.validate(record)
                return record
        return None

    def journal(self, query: str) -> list[Any]:
        with sqlite3.connect(self.state / "journal.sqlite") as database:
            rows = database.execute(query).fetchall()
        database.close()
        return rows

    def journal_write(self, statement: str) -> None:
        """Change the journal of an agent that does not run."""
        assert not self.running
        self.journal(statement)


@pytest.fixture
def agent(tmp_path: Path, bundle_file: Path) -> Iterator[Agent]:
    made = Agent(tmp_path, bundle_file)
    yield made
    if made.running:
        made.kill()
    sys.stdout.write(made.log.read_text() if made.log.exists() else "")


class Mosquitto:
    """The broker, on a loopback port of its own, with its sessions on disk."""

    def __init__(self, folder: Path, program: str) -> None:
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.acl = folder / "acl"
        self.acl.write_text("topic readwrite #\n")
        self._program = program
        self.folder = folder
        self.more = ""  # lines of its configuration, for the listener too
        self.anonymous = True
        self._log = folder / "mosquitto.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous {str(self.anonymous).lower()}\n{self.more}\n"
            f"acl_file {self.acl}\nuser root\n"
            f"persistence true\npersistence_location {self.folder}/\nmax_queued_messages 100000\n"
        )
        with self._log.open("ab") as log:
            self.process = subprocess.Popen([self._program, "-c", str(config)], stdout=log, stderr=log)
        until(self._answers, what=f"Mosquitto: {self._log.read_text()}")

    def _answers(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self, *, how: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(DEADLINE_S)
            self.process = None

    def reload(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if not program:
        pytest.skip("needs the MQTT broker Mosquitto: apt-get install mosquitto")
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    broker = Mosquitto(folder, program)
    yield broker
    broker.stop()


class Listener:
    """A subscriber whose session outlives its connection, so that it misses nothing while the broker restarts."""

    def __init__(self, port: int) -> None:
        from paho.mqtt.client import Client, MQTTMessage, MQTTv311
        from paho.mqtt.enums import CallbackAPIVersion

        self.results: list[dict[str, Any]] = []
        self.status: list[tuple[bool, dict[str, Any]]] = []  # (retained, payload)
        self.subscribed = 0

        def on_subscribe(*_: object) -> None:
            self.subscribed += 1

        def on_message(_client: Client, _data: object, message: MQTTMessage) -> None:
            if message.topic.endswith("/result"):
                self.results.append(json.loads(message.payload))
            elif message.topic.endswith("/status"):
                self.status.append((message.retain, json.loads(message.payload)))

        self.client = Client(CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False, protocol=MQTTv311)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe("cxr-edge/#", qos=1)
        self.client.on_subscribe = on_subscribe
        self.client.on_message = on_message
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        until(lambda: self.subscribed)

    def ids(self) -> list[str]:
        return [record["id"] for record in self.results]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def listen() -> Iterator[Callable[[int], Listener]]:
    listeners: list[Listener] = []

    def start(port: int) -> Listener:
        listeners.append(Listener(port))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.close()
