"""A heat map is the one of its result, whatever the X-ray is called and wherever it was filed away to."""

from __future__ import annotations

import json
from pathlib import Path

from firmware_bridge.beside import OVERLAY_SUFFIX, json_path, path_beside
from firmware_bridge.heatmaps import Heatmaps
from firmware_bridge.journal import Arrival, Journal, Outcome, Taken
from firmware_bridge.page.picture import Pictures
from firmware_bridge.png import PNG_MAGIC


def score(journal: Journal, path: Path, id: str) -> Taken:
    (row,) = journal.take([Arrival(path, id, 1, 1)])
    record = json.dumps({"id": id, "explanation": {"method": "grad-cam++", "overlay": True}})
    journal.settle([Outcome(row.seq, path, id, record)])
    return row


def file(place: Path, id: str) -> None:
    place.write_bytes(b"an X-ray")
    json_path(place).write_text(json.dumps({"id": id}))
    path_beside(place, OVERLAY_SUFFIX).write_bytes(PNG_MAGIC + id.encode())


def test_an_older_picture_of_the_same_name_gives_no_heat_map_to_a_newer_one(tmp_path: Path) -> None:
    watch = tmp_path / "watched"
    (watch / "done").mkdir(parents=True)
    journal = Journal(tmp_path / "state")
    heatmaps = Heatmaps(journal, "cxr-edge/box", watch)
    pictures = Pictures(tmp_path / "state", watch)
    ids = ["1" * 64, "2" * 64]
    first = score(journal, watch / "a.jpg", ids[0])
    file(watch / "done" / "a.jpg", ids[0])
    journal.settle([], written=[first.seq], moved=[first.seq], places={first.seq: watch / "done" / "a.jpg"})
    second = score(journal, watch / "a.jpg", ids[1])
    other = watch / "done" / f"a~{second.seq}.jpg"
    file(other, ids[1])  # filed away, and the journal is going to be told with the next commit
    assert [message.payload[-64:].decode() for _, message in heatmaps.due(limit=9)] == [ids[0]]
    assert pictures.overlay(ids[1]) in (None, PNG_MAGIC + ids[1].encode())
    journal.settle([], written=[second.seq], moved=[second.seq], places={second.seq: other})
    assert [message.payload[-64:].decode() for _, message in heatmaps.due(limit=9)] == ids
    assert [pictures.overlay(id) for id in ids] == [PNG_MAGIC + id.encode() for id in ids]
    journal.close()
