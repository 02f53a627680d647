"""The matrix: which rows are trained, on what each cell is scored, what is bold, and that it goes on after a cut.

Training itself is stood in for by the tiny model files; dividing, scoring and resampling are real, on real X-rays.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import toolkit.crossval
from firmware_bridge.errors import AuditError, ConfigError
from tests.toolkit.trained import trained_run
from toolkit.cli.crossval import command
from toolkit.config import TrainConfig
from toolkit.crossval import Plan, crossval
from toolkit.data.index import Index
from toolkit.summary import Options


@pytest.fixture(autouse=True)
def _trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit.crossval, "train_qat", trained_run)


@pytest.fixture
def sets(samples: Path, tmp_path: Path) -> dict[str, Path]:
    """The samples in two sets, by patient, each class and split in both."""
    index = Index.read(samples / "index.csv")
    patients: dict[str, int] = {}
    for row in index:
        group = sum(1 for known in patients if known.startswith(f"{row.split}{row.label}"))
        patients.setdefault(f"{row.split}{row.label}{row.patient_id}", group)
    found = {}
    for name, side in (("east", 0), ("west", 1)):
        rows = [r for r in index if patients[f"{r.split}{r.label}{r.patient_id}"] % 2 == side]
        found[name] = tmp_path / f"{name}.csv"
        index.with_rows(rows).write(found[name])
    return found


def test_each_row_is_trained_once_and_each_cell_scored_on_the_sets_test_split(
    sets: dict[str, Path], tmp_path: Path
) -> None:
    given = [part for name, path in sets.items() for part in ("--set", f"{name}={path}")]
    out = tmp_path / "out"
    arguments = [*given, "--out", str(out), "--rows", "single", "--rows", "all", "--resamples", "20"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert [line for line in result.output.splitlines() if line.startswith("trained")] == [
        "trained east",
        "trained west",
        "trained east and west",
    ]
    said = json.loads((out / "crossval.json").read_text())
    assert [row["trained_on"] for row in said["rows"]] == [["east"], ["west"], ["east", "west"]]
    for row in said["rows"]:
        for name, cell in row["cells"].items():
            assert cell["role"] == ("inside" if name in row["trained_on"] else "outside")
            index = Index.read(out / "sets" / name / "index.csv")
            assert cell["images"] == len(index.select(split="test"))
            assert cell["auroc"]["low"] <= cell["auroc"]["value"] <= cell["auroc"]["high"]
    # The same file everywhere: a column has one figure, and the gap is the difference of the cells.
    east = said["rows"][0]
    assert {row["cells"]["west"]["auroc"]["value"] for row in said["rows"]} == {east["cells"]["west"]["auroc"]["value"]}
    gap = east["gaps"][0]["difference"]["value"]
    assert gap == pytest.approx(east["cells"]["east"]["auroc"]["value"] - east["cells"]["west"]["auroc"]["value"])
    lines = (out / "crossval.md").read_text().splitlines()
    assert lines[0].split(" | ")[1:3] == ["east", "west"]
    assert lines[2].split(" | ")[1].startswith("**")
    assert not lines[2].split(" | ")[2].startswith("**")


def test_unseen_sets_can_be_tested_whole(sets: dict[str, Path], tmp_path: Path) -> None:
    plan = Plan({name: Index.read(path) for name, path in sets.items()}, everything=True)
    said = crossval(plan, TrainConfig(), out=tmp_path / "out", options=Options(resamples=10), say=lambda _: None)
    cells = said["rows"][0]["cells"]
    assert cells["west"]["images"] == len(plan.sets["west"])
    assert cells["east"]["images"] == len(plan.sets["east"].select(split="test"))


@pytest.mark.parametrize("everything", [False, True])
def test_a_set_that_holds_pictures_of_another_is_no_outside_for_it(
    sets: dict[str, Path], tmp_path: Path, everything: bool
) -> None:
    east, west = Index.read(sets["east"]), Index.read(sets["west"])
    taken = east.select(split="train").rows[0]
    shutil.copy(taken.path, tmp_path / "copy.jpg")
    copy = replace(taken, path=tmp_path / "copy.jpg", patient_id="9", split="train" if everything else "test")
    plan = Plan({"east": east, "west": west.with_rows([*west, copy])}, everything=everything)
    options: dict[str, Any] = {"out": tmp_path / "out", "options": Options(resamples=10), "say": lambda _: None}
    with pytest.raises(
        AuditError, match=r"(?s)'east' would be tested on pictures.*1 pictures that are in east and west"
    ):
        crossval(plan, TrainConfig(), **options)
    said = crossval(plan, TrainConfig(allow_leaks=True), **options)
    assert len(said["rows"]) == 2


def test_the_rows_of_three_sets() -> None:
    three: dict[str, Any] = dict.fromkeys("abc", Index(()))
    assert list(Plan(three, kinds=("leave-one-out",)).rows()) == ["b+c", "a+c", "a+b"]
    assert len(Plan(three, kinds=("single", "leave-one-out", "all")).rows()) == 7
    two: dict[str, Any] = dict.fromkeys("ab", Index(()))
    # All but one of two sets is a single set: not trained twice.
    assert list(Plan(two, kinds=("single", "leave-one-out")).rows()) == ["a", "b"]


def test_what_cannot_be_crossed(sets: dict[str, Path], tmp_path: Path) -> None:
    index = Index.read(sets["east"])
    options: dict[str, Any] = {"out": tmp_path, "options": Options(), "say": lambda _: None}
    for wrong in ({"a": index}, {"a+b": index, "c": index}, {"inside": index, "c": index}):
        with pytest.raises(ConfigError):
            crossval(Plan(wrong), TrainConfig(), **options)
    bare = index.with_rows(replace(row, split="train" if row.split == "test" else row.split) for row in index)
    with pytest.raises(ConfigError, match="no test split"):
        crossval(Plan({"a": bare, "b": index}), TrainConfig(test_share=0.0), **options)
