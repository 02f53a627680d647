"""Rows, lines and files that somebody or something has changed behind our back."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from pathlib import Path

import pytest

from firmware_bridge.audit import AuditLog
from firmware_bridge.audit_line import FIRST_PREV, FOLDER, read_line
from firmware_bridge.audit_verify import verify
from firmware_bridge.beside import OVERLAY_SUFFIX, json_path, path_beside
from firmware_bridge.claims import FOLDER as CLAIMED
from firmware_bridge.claims import Claims, Lost
from firmware_bridge.heatmaps import Heatmaps
from firmware_bridge.journal import Arrival, Journal, JournalDamaged, Outcome
from firmware_bridge.journal_salvage import SUSPECT
from firmware_bridge.png import PNG_MAGIC


def record(number: int) -> str:
    head = {"id": f"{number:064x}", "time": "2026-11-24T00:00:00Z", "explanation": {"method": "x"}}
    score = {"model": {"file": "m"}, "probability": 0.5, "threshold": 0.4, "decision": "positive"}
    return json.dumps({**head, "image": {"id": "i"}, "bundle": {"id": "b"}, **score})


def fill(state: Path, folder: Path, count: int = 3) -> Journal:
    journal = Journal(state)
    rows = journal.take([Arrival(folder / f"{n}.jpg", f"{n:064x}", 1, 1) for n in range(count)])
    journal.settle([Outcome(row.seq, row.path, f"{n:064x}", record(n)) for n, row in enumerate(rows)])
    return journal


def follow(state: Path, journal: Journal) -> None:
    log = AuditLog(state, journal.path, problem=lambda _text: None)
    try:
        log.follow()
    finally:
        log.close()


def damage(state: Path, how: str) -> None:
    with sqlite3.connect(state / "journal.sqlite") as database:
        database.execute(how)
    database.close()


DAMAGES = {
    "no-json": "UPDATE result SET record='{' WHERE seq=2",
    "no-record": "UPDATE result SET record='[]' WHERE seq=2",
    "no-time": "UPDATE result SET record=replace(record, '\"time', '\"tide') WHERE seq=2",
    "no-text": "UPDATE result SET record=CAST(x'7bff7d' AS TEXT) WHERE seq=2",
}


@pytest.mark.parametrize("how", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_is_salvaged_around(tmp_path: Path, how: str) -> None:
    fill(tmp_path / "state", tmp_path).close()
    damage(tmp_path / "state", how)
    journal = Journal(tmp_path / "state")
    with pytest.raises(JournalDamaged):
        follow(tmp_path / "state", journal)
    journal.close()
    assert (tmp_path / "state" / SUSPECT).exists()
    journal = Journal(tmp_path / "state")
    follow(tmp_path / "state", journal)
    assert [json.loads(text)["id"] for text in journal.latest(limit=9)] == [f"{2:064x}", f"{0:064x}"]
    # Its file is scored once more, under the same id.
    assert [row.path.name for row in journal.open_intakes()] == ["1.jpg"]
    journal.close()


@pytest.mark.parametrize("how", DAMAGES.values(), ids=DAMAGES)
def test_verify_names_a_damaged_record(tmp_path: Path, how: str) -> None:
    journal = fill(tmp_path / "state", tmp_path)
    follow(tmp_path / "state", journal)
    journal.close()
    assert verify(tmp_path / "state").faults == []
    damage(tmp_path / "state", how)
    assert ["result 2" in str(fault) for fault in verify(tmp_path / "state").faults] == [True]


@pytest.mark.parametrize("value", ["Infinity", "1e999", "[" * 1500 + "]" * 1500], ids=["inf", "huge", "deep"])
def test_a_line_with_a_good_hash_and_a_bad_number_is_none(tmp_path: Path, value: str) -> None:
    body = f'{{"n":{value},"kind":"note","prev":"{FIRST_PREV}"}}'.encode()
    raw = body[:-1] + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'
    assert read_line(raw) is None
    journal = fill(tmp_path / "state", tmp_path)
    follow(tmp_path / "state", journal)
    (file,) = (tmp_path / "state" / FOLDER).iterdir()
    with file.open("ab") as log:
        log.write(raw)
    assert "changed or foreign" in str(verify(tmp_path / "state").faults[0])
    follow(tmp_path / "state", journal)
    journal.close()


@pytest.mark.parametrize("what", ["link", "pipe", "text"])
def test_only_a_picture_is_sent_as_a_heat_map(tmp_path: Path, what: str) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG_MAGIC + b"somebody else's")
    journal = Journal(tmp_path / "state")
    maps = Heatmaps(journal, "t", tmp_path)
    journal.close()
    journal = fill(tmp_path / "state", tmp_path, 1)
    maps._journal = journal
    overlay = path_beside(tmp_path / "0.jpg", OVERLAY_SUFFIX)
    if what == "link":
        overlay.symlink_to(secret)
    elif what == "pipe":
        os.mkfifo(overlay)
    else:
        overlay.write_text("no picture")
    assert maps.due(limit=9) == []
    overlay.unlink()
    overlay.write_bytes(secret.read_bytes())
    json_path(tmp_path / "0.jpg").write_text(f'{{"id": "{0:064x}"}}')
    assert len(maps.due(limit=9)) == 1
    journal.close()


def test_nothing_is_claimed_or_put_back_through_a_link(tmp_path: Path) -> None:
    watch, elsewhere = tmp_path / "watch", tmp_path / "elsewhere"
    for folder in (watch, elsewhere):
        folder.mkdir()
    (elsewhere / "1.jpg").write_text("not ours")
    (watch / "study").symlink_to(elsewhere)
    claims = Claims(watch, "us", stale_s=0.0, problem=lambda _text: None)
    with pytest.raises(Lost):
        claims.claim(watch / "study" / "1.jpg")
    # What somebody laid into the folder of an agent that never was.
    planted = watch / CLAIMED / "them" / "study" / "job"
    planted.parent.mkdir(parents=True)
    planted.write_text("* * * * * root id\n")
    claims.tidy()
    claims.close()
    assert [file.name for file in elsewhere.iterdir()] == ["1.jpg"]
    assert [file.read_text() for file in watch.glob("job*")] == ["* * * * * root id\n"]
