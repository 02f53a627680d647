"""What weights and teachers had learned from goes on into what is said of a run's figures."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.errors import InputError
from toolkit.bundle_folder import bundle_from_run
from toolkit.config import TrainConfig
from toolkit.data.index import Index
from toolkit.evaluate import evaluate
from toolkit.model_card import read_card
from toolkit.model_files import from_bundle, from_run
from toolkit.origins import Origins, origins_of, read_origins, write_origins
from toolkit.score_index import NamedIndex
from toolkit.summary import Options
from toolkit.summary_text import seen_warnings

CONFIG = TrainConfig(name="t")
SHIPPED = "cxr-edge/kermany"


def test_from_nothing_or_imagenet_there_is_nothing_to_say() -> None:
    assert origins_of(CONFIG) == origins_of(replace(CONFIG, weights="imagenet")) == Origins()


def test_runs_tell_their_xrays_and_those_that_they_came_from(run: Path, tmp_path: Path) -> None:
    write_origins(Origins(frozenset({tmp_path / "grandparent.png"}), (SHIPPED,)), run)
    weights = run / "float" / "final.weights.h5"
    own = frozenset(row.path for row in Index.read(run / "index.csv"))
    for config in (
        replace(CONFIG, weights=str(weights)),
        replace(CONFIG, teacher=str(run)),
        replace(CONFIG, teacher=str(run / "models" / "model.int8.tflite")),
    ):
        assert origins_of(config) == Origins(own | {tmp_path / "grandparent.png"}, (SHIPPED,))


def test_what_cannot_tell_is_named_without_its_whole_path(run: Path, tmp_path: Path) -> None:
    write_origins(Origins(unknown=("older.cxr",)), run)
    taught_before = bundle_from_run(run, tmp_path / "teachers" / "one.cxr", golden=0)
    teachers = os.pathsep.join([str(taught_before), SHIPPED])
    weights = tmp_path / "somewhere" / "some.h5"
    found = origins_of(replace(CONFIG, weights=str(weights), teacher=teachers))
    assert found == Origins(unknown=("somewhere/some.h5", "teachers/one.cxr", "older.cxr", SHIPPED))


def test_evaluation_and_card_say_so(run: Path) -> None:
    index = Index.read(run / "index.csv")
    first = index.rows[0].path
    tests = index.with_rows(replace(row, split="test") for row in index)
    tests.write(run / "index.csv")
    write_origins(Origins(frozenset({first}), (SHIPPED,)), run)
    found = evaluate(
        from_run(run), [NamedIndex("inside", run / "index.csv", "test", tests)], out=run, options=Options(resamples=20)
    )
    known, unknown = seen_warnings(found)
    assert known.startswith("1 of the 64 X-rays of 'inside'")
    assert SHIPPED in unknown
    bundle = bundle_from_run(run, golden=0)
    card = read_card(bundle)
    assert known in card
    assert unknown in card
    assert f"| started from, or was taught by | {SHIPPED}" in card
    assert {model.learned_before for model in from_bundle(bundle)} == {(SHIPPED,)}


def test_what_is_said_before_training() -> None:
    origins = Origins(frozenset({Path("a"), Path("b")}), (SHIPPED,))
    known, unknown = origins.warnings([Path("b"), Path("c")])
    assert known.startswith("1 of the 2 test X-rays")
    assert unknown.startswith(SHIPPED)
    assert Origins().warnings([Path("b")]) == []


@pytest.mark.parametrize("text", ["", "[]", '{"seen": 1, "unknown": []}'])
def test_a_damaged_file_is_named(run: Path, text: str) -> None:
    (run / "origins.json").write_text(text)
    with pytest.raises(InputError, match=r"origins\.json"):
        read_origins(run)
