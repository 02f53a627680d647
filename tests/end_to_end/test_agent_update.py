"""Desired state: a retained message names a bundle; the agent fetches it, and takes only what a trusted key signed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import ConfigError, ResourceError
from firmware_bridge.status import ask
from firmware_bridge.status_report import report
from firmware_bridge.update import Desired, parse_desired
from firmware_bridge.update_part import require_room
from toolkit.bundle import build_bundle, sign_bundle

from .conftest import Agent, Mosquitto, until
from .test_agent_trust import KEY, OTHER, trust, with_golden

DEVICE = "edge-1"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_words: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def message(bundle: Path, url: str, **over: Any) -> bytes:
    raw = bundle.read_bytes()
    with open_bundle(bundle) as opened:
        desired = Desired(opened.id, f"{url}/{bundle.name}", hashlib.sha256(raw).hexdigest(), len(raw))
    return json.dumps({**json.loads(desired.to_bytes()), **over}).encode()


class Fleet:
    """Whoever tells devices what to run, and hears what they say of it."""

    def __init__(self, broker: Mosquitto) -> None:
        self.url = broker.url
        self.reports: list[dict[str, Any]] = []
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe(f"cxr-edge/{DEVICE}/update", qos=1)
        self._client.on_message = lambda _client, _data, came: self.reports.append(json.loads(came.payload))
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def tell(self, topic: str, payload: bytes) -> None:
        self._client.publish(topic, payload, qos=1, retain=True).wait_for_publish(30)

    @property
    def states(self) -> list[str]:
        return [str(report["state"]) for report in self.reports]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def fleet(mosquitto: Mosquitto) -> Iterator[Fleet]:
    mosquitto.start()
    made = Fleet(mosquitto)
    yield made
    made.close()


@pytest.fixture
def listening(agent: Agent, fleet: Fleet, bundle_file: Path, tmp_path: Path) -> Agent:
    """An agent that waits for what it is told to run."""
    agent.bundle = sign_bundle(bundle_file, KEY, out=tmp_path / "running.cxr")
    keys = trust(tmp_path / "keys.toml", KEY)
    options = ("--mqtt", fleet.url, "--device", DEVICE, "--trusted-keys", str(keys))
    agent.start(*options, environment={"CXR_EDGE_UPDATE_ENABLED": "1"})
    return agent


def test_a_signed_bundle_is_fetched_and_handed_over(
    listening: Agent, fleet: Fleet, bundle_file: Path, samples: Path, served: tuple[Path, str]
) -> None:
    folder, url = served
    new = with_golden(bundle_file, samples, folder / "new.cxr")
    fleet.tell(f"cxr-edge/{DEVICE}/desired", message(new, url))
    until(lambda: "handed over" in fleet.states, what="handed over")
    ready = listening.state / "update" / "ready.cxr"
    assert ready.read_bytes() == new.read_bytes()
    # What the other half says of it is passed on.
    (listening.state / "update" / "report.json").write_text(json.dumps({"schema": 1, "state": "running"}))
    until(lambda: "running" in fleet.states, what="running")
    # That half does not know what it refuses; whoever reads the topic is told.
    refused = {"schema": 1, "state": "refused", "bundle": "", "error": {"what": "it is older"}}
    (listening.state / "update" / "report.json").write_text(json.dumps(refused))
    until(lambda: "refused" in fleet.states, what="refused")
    with open_bundle(new) as opened:
        assert fleet.reports[-1] == {**refused, "bundle": opened.id}


def test_a_broker_that_is_away_is_told_and_does_not_count_as_broken(listening: Agent, mosquitto: Mosquitto) -> None:
    until(lambda: (ask(listening.state) or {}).get("problems") == {})
    mosquitto.stop()
    until(lambda: {"mqtt", "update"} <= report(listening.state)["problems"].keys())
    assert report(listening.state)["works"] is True, "X-rays are scored and their results kept"


@pytest.mark.parametrize("case", ["another's", "changed", "short"])
def test_what_nobody_trusted_signed_or_is_another_file_is_refused_and_not_fetched_again(
    listening: Agent, fleet: Fleet, bundle_file: Path, samples: Path, served: tuple[Path, str], case: str
) -> None:
    folder, url = served
    new = with_golden(bundle_file, samples, folder / "new.cxr")
    over: dict[str, Any] = {}
    if case == "another's":
        with open_bundle(new) as opened:
            files: dict[str, bytes | Path] = {name: opened.read(name) for name in opened.manifest.files}
            manifest = opened.manifest
        build_bundle(
            new,
            name="golden",
            labels=(manifest.label_negative, manifest.label_positive),
            preprocessing=manifest.preprocessing,
            models=manifest.models,
            golden=manifest.golden,
            files=files,
        )
        sign_bundle(new, OTHER)
    elif case == "changed":
        over = {"sha256": "0" * 64}
    else:
        over = {"bytes": 100}
    fleet.tell("cxr-edge/desired", message(new, url, **over))
    until(lambda: "refused" in fleet.states, what="refused")
    assert not (listening.state / "update" / "ready.cxr").exists()
    assert fleet.reports[-1]["error"]["do"]
    assert listening.running


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"bundle": "x"},
        {"url": "file:///etc/passwd"},
        {"url": "ftp://host/x"},
        {"url": 3},
        {"sha256": "0"},
        {"bytes": 0},
        {"bytes": 2**40},
        {"bytes": True},
    ],
)
def test_messages_that_are_none(change: dict[str, Any]) -> None:
    good = json.loads(Desired("0" * 64, "https://host/x.cxr", "1" * 64, 5).to_bytes())
    assert parse_desired(json.dumps(good).encode()).size_bytes == 5
    with pytest.raises(ConfigError, match="desired state cannot be read"):
        parse_desired(json.dumps({**good, **change}).encode())


@pytest.mark.parametrize("raw", [b"[]", b"{}", b"\xff", b"[" * 10_000])
def test_messages_that_are_no_message(raw: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_desired(raw)


ELSEWHERE = {"ftp": "ftp://127.0.0.1/x.cxr", "nowhere": "http://a..b/x.cxr", "bracket": "http://[::1/x.cxr"}


class Awkward(http.server.BaseHTTPRequestHandler):
    """A server that gives a byte now and then, or leads elsewhere."""

    def log_message(self, *_words: object) -> None: ...

    def do_GET(self) -> None:
        if to := ELSEWHERE.get(self.path.split("/")[1]):
            self.send_response(302)
            self.send_header("Location", to)
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.5)


@pytest.fixture
def awkward() -> Iterator[str]:
    """The address of such a server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Awkward) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_newer_message_does_not_wait_for_a_slow_server(
    listening: Agent, fleet: Fleet, bundle_file: Path, samples: Path, served: tuple[Path, str], awkward: str
) -> None:
    folder, url = served
    new = with_golden(bundle_file, samples, folder / "new.cxr")
    fleet.tell("cxr-edge/desired", message(new, f"{awkward}/ftp"))
    until(lambda: "refused" in fleet.states, what="refused")
    assert "ftp:" in fleet.reports[-1]["error"]["came"]
    fleet.tell("cxr-edge/desired", message(new, awkward, sha256="1" * 64))
    until(lambda: fleet.states[-1] == "fetching", what="fetching")
    fleet.tell("cxr-edge/desired", message(new, url))
    until(lambda: "handed over" in fleet.states, what="handed over")
    assert (listening.state / "update" / "ready.cxr").read_bytes() == new.read_bytes()


@pytest.mark.parametrize("leads", ["nowhere", "bracket", "http://a%2e%2eb"])
def test_an_address_that_leads_nowhere_is_told_and_ends_nothing(
    listening: Agent, fleet: Fleet, bundle_file: Path, samples: Path, served: tuple[Path, str], awkward: str, leads: str
) -> None:
    folder, url = served
    new = with_golden(bundle_file, samples, folder / "new.cxr")
    fleet.tell("cxr-edge/desired", message(new, leads if "://" in leads else f"{awkward}/{leads}"))
    until(lambda: "refused" in fleet.states, what="refused")
    refused = next(report for report in fleet.reports if report["state"] == "refused")
    assert refused["error"]["what"] == "the bundle cannot be fetched"
    assert listening.running
    fleet.tell("cxr-edge/desired", message(new, url))
    until(lambda: "handed over" in fleet.states, what="handed over")


@pytest.mark.parametrize("url", ["http://h/ü.cxr", f"http://{'a' * 70}.example/x", "http:///x", "ftp://h/x"])
def test_an_address_that_nobody_could_ask_for_is_none(url: str) -> None:
    raw = json.dumps({"schema": 1, "bundle": "0" * 64, "url": url, "sha256": "0" * 64, "bytes": 5}).encode()
    with pytest.raises(ConfigError, match="cannot be read"):
        parse_desired(raw)


def test_a_bundle_that_the_disk_cannot_hold_is_not_begun(tmp_path: Path) -> None:
    free_bytes = shutil.disk_usage(tmp_path).free
    require_room(tmp_path, 1000, reserve_mb=0.0)
    with pytest.raises(ResourceError, match="no room"):
        require_room(tmp_path, free_bytes // 2, reserve_mb=0.0)  # it is there three times for a moment
    with pytest.raises(ResourceError, match="no room"):
        require_room(tmp_path, free_bytes // 3, reserve_mb=1e9)
