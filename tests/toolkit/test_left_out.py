"""X-rays that a run leaves out are counted by class wherever its data are told of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.errors import InputError
from toolkit.bundle_folder import bundle_from_run
from toolkit.data.index import Index
from toolkit.left_out import left_out_note, read_left_out, write_left_out
from toolkit.model_card import read_card
from toolkit.report import training_report


def test_report_and_card_count_what_was_left_out(run: Path) -> None:
    index = Index.read(run / "index.csv")
    index = index.with_rows(replace(row, split="train") for row in index)
    index.write(run / "index.csv")
    (run / "history.json").write_text(json.dumps({"phases": []}))
    assert left_out_note(read_left_out(run), index) == ""
    write_left_out([(row.path, "no lungs") for row in index.rows[:3]], index, run)
    said = f"train {index.rows[0].label} 3 of 32"
    assert said in left_out_note(read_left_out(run), index)
    assert said in training_report(run).read_text(encoding="utf-8")
    assert "64 of them trained on, less 3 that were" in read_card(bundle_from_run(run, golden=0))


def test_a_damaged_file_is_named(run: Path) -> None:
    (run / "left_out.json").write_text('[{"path": 1}]')
    with pytest.raises(InputError, match=r"left_out\.json"):
        read_left_out(run)
