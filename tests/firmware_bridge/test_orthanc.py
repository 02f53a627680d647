"""Which of Orthanc's instances are taken, what is kept of its changes, and what an odd server's answers lead to."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge.dicom_objects import MANUFACTURER
from firmware_bridge.http_client import ServerError, TooLarge
from firmware_bridge.orthanc_choice import unwanted
from firmware_bridge.orthanc_client import Orthanc, OrthancRefusal
from firmware_bridge.orthanc_feed import FAILED, SEEN, Cursor, Feed
from firmware_bridge.orthanc_settings import OrthancSettings
from firmware_bridge.settings import load_settings
from tests.conftest import REPOSITORY

CHEST = {"Modality": "DX", "BodyPartExamined": "CHEST", "ViewPosition": "PA", "Manufacturer": "X"}
ID = "85e82973-f115ffa3-abf5d862-7bf53a23-d72fdd1b"


@pytest.mark.parametrize(
    ("changed", "taken"),
    [
        ({}, True),
        ({"BodyPartExamined": "", "ViewPosition": None}, True),
        ({"BodyPartExamined": " chest "}, True),
        ({"BodyPartExamined": "THORAX^AP"}, True),
        ({"ViewPosition": "AP AXIAL"}, True),
        ({"ViewPosition": "LL"}, False),
        ({"BodyPartExamined": "KNEE"}, False),
        ({"Modality": "CT"}, False),
        ({"Modality": ""}, False),
        ({"Modality": {"odd": 1}}, False),
        ({"Manufacturer": MANUFACTURER}, False),
    ],
)
def test_chest_radiographs_are_taken_and_nothing_of_ours(changed: dict[str, Any], taken: bool) -> None:
    assert (unwanted({**CHEST, **changed}, OrthancSettings()) == "") is taken


def test_what_is_taken_is_a_setting() -> None:
    settings = OrthancSettings(modalities=("cr",), body_parts=(), views=())
    assert unwanted({"Modality": "CR", "BodyPartExamined": "KNEE", "ViewPosition": "LL"}, settings) == ""


def test_an_instance_is_new_once_for_each_change_that_announces_it(tmp_path: Path) -> None:
    feed = Feed(tmp_path)
    assert feed.cursor is None
    feed.read(Cursor(5, "five"), [(ID, "4 then NewInstance")])
    feed.fetched(ID, tmp_path / "x.dcm", "ab")
    feed.move(ID, "stored")
    feed.close()
    feed = Feed(tmp_path)
    assert feed.cursor == Cursor(5, "five")
    feed.read(Cursor(0), [(ID, "4 then NewInstance")])
    assert feed.due(SEEN, limit=9) == [], "the list read again from its beginning"
    feed.read(Cursor(9, "nine"), [(ID, "8 later NewInstance")])
    assert [one.id for one in feed.due(SEEN, limit=9)] == [ID]
    feed.close()


def test_what_fails_again_and_again_lets_others_go_first_and_is_given_up(tmp_path: Path) -> None:
    feed = Feed(tmp_path)
    feed.read(Cursor(2, "two"), [("first", "1"), ("second", "2")])
    feed.failed(feed.due(SEEN, limit=1)[0], "status 400", passing=False)
    assert [one.id for one in feed.due(SEEN, limit=9)] == ["second", "first"]
    for _ in range(4):
        feed.failed(feed.due(SEEN, limit=9)[1], "status 400", passing=False)
    assert [one.id for one in feed.due(FAILED, limit=9)] == ["first"]
    assert feed.offer_again() == 1
    assert {one.id for one in feed.due(SEEN, limit=9)} == {"first", "second"}
    feed.close()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status, body = 200, b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # who hears too much hangs up
            self.wfile.write(self.body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    made = HTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def changes(**change: Any) -> bytes:
    one = {"Seq": 1, "ChangeType": "NewInstance", "ID": ID, "Date": "20261128T074714", **change}
    return json.dumps({"Changes": [one], "Last": 1, "Done": True}).encode()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, b"<html>a router</html>", ServerError),
        (200, b"[]", ServerError),
        (200, b'{"Changes": 1, "Last": 2, "Done": true}', ServerError),
        (200, changes(ID="../../tools/reset"), ServerError),
        (200, changes(Seq="x"), ServerError),
        (200, changes(Seq=-1), ServerError),
        (200, changes(Seq=2**70), ServerError),
        (200, changes(Seq=float("inf")), ServerError),
        (200, changes(Date="\ud800"), ServerError),
        (200, b'{"Changes": [], "Last": 1e400, "Done": true}', ServerError),
        (302, b"", ServerError),
        (401, b"", ServerError),
        (404, b"", ServerError),
        (400, b'{"Message": "odd\\nline"}', OrthancRefusal),
        (503, b"", OrthancRefusal),
        (200, b"x" * (5 << 20), TooLarge),
    ],
)
def test_no_answer_of_an_odd_server_is_taken_for_orthancs(
    server: HTTPServer, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, error: type[Exception]
) -> None:
    monkeypatch.setattr(_Answers, "status", status)
    monkeypatch.setattr(_Answers, "body", body)
    orthanc = Orthanc(OrthancSettings(url=f"http://127.0.0.1:{server.server_port}"))
    with pytest.raises(error) as raised:
        orthanc.changes(since=0, limit=1)
    assert type(raised.value) is error
    assert "odd\nline" not in str(raised.value)
    orthanc.close()


@pytest.mark.parametrize(
    ("body", "passing"),
    [
        (b"<html>", True),
        (b'{"FileSize": "MUSTERMANN^MAX"}', True),
        (b'{"FileSize": -1}', True),
        (b'{"FileSize": [1]}', True),
        (b'{"FileSize": 1e999}', True),
        (b'{"Message": "Bad request", "Details": "no such patient: MUSTERMANN^MAX"}', False),
    ],
)
def test_what_is_odd_about_one_instance_holds_up_no_other_and_names_nobody(
    server: HTTPServer, monkeypatch: pytest.MonkeyPatch, body: bytes, passing: bool
) -> None:
    monkeypatch.setattr(_Answers, "status", 200 if passing else 400)
    monkeypatch.setattr(_Answers, "body", body)
    orthanc = Orthanc(OrthancSettings(url=f"http://127.0.0.1:{server.server_port}"))
    for ask in (orthanc.size_bytes, lambda id: orthanc.file(id, most_bytes=1000)):
        with pytest.raises(OrthancRefusal) as raised:
            ask(ID)
        assert raised.value.passing is passing
        assert "MUSTERMANN" not in str(raised.value)
    monkeypatch.setattr(_Answers, "body", b"x" * (5 << 20))
    with pytest.raises(OrthancRefusal, match="more than"):
        orthanc.tags(ID)
    orthanc.close()


def test_every_key_is_explained_as_it_is_and_the_example_is_read(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "orthanc.md").read_text(encoding="utf-8")
    for key in fields(OrthancSettings):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{key.name}` |")]
        assert row.endswith(f"| {key.metadata['help']} |")
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    config = tmp_path / "agent.toml"
    config.write_text(example)
    assert load_settings(config).section(OrthancSettings).url == "http://127.0.0.1:8042"
