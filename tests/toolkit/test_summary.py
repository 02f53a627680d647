"""Figures of sets, groups and pairs, computed from scores alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit.data.index import Xray
from toolkit.groups import age_group
from toolkit.summary import Options, ScoredSet, summarise_set
from toolkit.summary_text import headline, markdown, metric_columns, number, temperature_warning, with_interval

OPTIONS = Options(resamples=50)
THRESHOLDS = {"int8": 0.5, "fp16": 0.5}
Make = Callable[..., ScoredSet]
Evaluate = Callable[[list[ScoredSet]], dict[str, Any]]


def test_a_set_in_figures(scored_set: Make) -> None:
    found = summarise_set(scored_set("inside", strength=2.0), THRESHOLDS, OPTIONS)
    json.dumps(found, allow_nan=False)
    assert (found["images"], found["patients"]) == (400, 200)
    assert found["positives"] + found["negatives"] == 400
    for interval in found["results"]["int8"]["metrics"].values():
        assert interval["low"] <= interval["value"] <= interval["high"]
    assert (
        found["results"]["int8"]["metrics"]["ppv"]["value"]
        < found["results"]["int8"]["metrics"]["sensitivity"]["value"]
    )
    assert found["shortcuts"]["width"]["value"] > 0.65
    counts = found["results"]["int8"]["confusion"]
    assert sum(value for key, value in counts.items() if key != "threshold") == 400


def test_without_an_error_no_figure_at_the_threshold_is_certain(scored_set: Make) -> None:
    found = summarise_set(scored_set("inside", strength=40.0), THRESHOLDS, OPTIONS)["results"]["int8"]["metrics"]
    for name in ("sensitivity", "specificity", "ppv", "npv"):
        assert found[name]["value"] == found[name]["high"] == 1.0
        assert found[name]["low"] < 1.0
    # About a hundred patients of each class: at worst 0.964 of each, so that of four called sick one is well.
    assert found["specificity"]["low"] == pytest.approx(0.964, abs=0.01)
    assert found["ppv"]["low"] == pytest.approx(0.75, abs=0.05)


def test_groups_only_with_enough_of_both_classes(scored_set: Make) -> None:
    found = summarise_set(scored_set("inside", strength=2.0, n=120), THRESHOLDS, OPTIONS)
    groups = {(g["by"], g["group"]): g for g in found["results"]["int8"]["groups"]}
    assert groups["sex", "F"]["enough"]
    assert groups["sex", "F"]["metrics"]["auroc"]["low"] is not None
    assert not groups["age", "0 to 5"]["enough"]
    assert groups["age", "0 to 5"]["metrics"] == {}
    ages = [name for by, name in groups if by == "age"]
    assert ages == ["0 to 5", "6 to 17", "18 to 39", "40 to 64", "65 and over"]


@pytest.mark.parametrize(
    ("age", "group"), [(None, ""), (0.0, "0 to 5"), (5.9, "0 to 5"), (6.0, "6 to 17"), (65.0, "65 and over"), (999, "")]
)
def test_age_groups(age: float | None, group: str) -> None:
    assert age_group(Xray(Path("x"), "normal", "1", age=age)) == group


@pytest.mark.parametrize(
    ("share", "there", "missing"), [(1.1, "sensitivity", "specificity"), (-0.1, "specificity", "ppv")]
)
def test_a_set_of_one_class_has_what_can_be_known(
    share: float, there: str, missing: str, scored_set: Make, evaluation_of: Evaluate
) -> None:
    one = scored_set("outside-sick", strength=2.0, positive_share=share)
    found = summarise_set(one, THRESHOLDS, OPTIONS)
    metrics = found["results"]["int8"]["metrics"]
    assert there in metrics
    assert missing not in metrics
    assert "auroc" not in metrics
    assert found["shortcuts"] == {}
    evaluation = evaluation_of([one])
    assert "no set holds both classes" in headline(evaluation)
    assert "| int8 | outside-sick | 400" in markdown(evaluation)


def test_without_a_threshold_no_decisions(scored_set: Make) -> None:
    found = summarise_set(scored_set("inside", strength=2.0), {"int8": None, "fp16": 0.5}, OPTIONS)
    assert set(found["results"]["int8"]["metrics"]) == {"auroc", "auprc", "brier", "ece"}
    assert found["results"]["int8"]["confusion"] is None
    assert found["results"]["fp16"]["confusion"] is not None


def test_the_gap_is_the_headline(scored_set: Make, evaluation_of: Evaluate) -> None:
    evaluation = evaluation_of([scored_set("inside", strength=3.0), scored_set("outside", strength=0.3, seed=1)])
    gap = evaluation["gaps"][0]
    assert gap["difference"]["value"] == pytest.approx(gap["auroc_inside"]["value"] - gap["auroc_outside"]["value"])
    assert gap["difference"]["low"] > 0
    assert headline(evaluation).startswith("int8: AUROC falls from 0.9")
    assert "(outside)" not in headline(evaluation)
    text = markdown(evaluation)
    assert text.startswith(f"**{headline(evaluation)}**")
    before, _, held_still = text.partition("is held still")
    assert before.count("| int8 | ") == 3  # two sets in the one table, and the gap
    assert "| int8 | outside | view (AP or PA) |" in held_still
    assert "int8 minus fp16" in text
    assert f"; luck alone: {evaluation['sets'][0]['results']['int8']['ece_by_chance']:.3f})" in text
    assert len(metric_columns(evaluation)) == 11


def test_quantization_alone_changes_little_and_the_pair_sees_it(scored_set: Make, evaluation_of: Evaluate) -> None:
    evaluation = evaluation_of([scored_set("inside", strength=2.0)])
    (pair,) = evaluation["paired"]
    difference = pair["auroc_difference"]
    assert abs(difference["value"]) < 0.01
    assert difference["high"] - difference["low"] < 0.02
    assert "nothing is known about the gap" in headline(evaluation)


def test_numbers_as_text() -> None:
    assert number(-0.5) == "\N{MINUS SIGN}0.500"
    assert number(None) == "–"
    assert with_interval({"value": 0.5, "low": 0.4, "high": 0.6}) == "0.500 (0.400 to 0.600)"
    assert with_interval({"value": 0.5, "low": None, "high": None}) == "0.500 (too few patients for an interval)"
    assert with_interval({"value": 1.0, "low": 1.0, "high": 1.0}) == "1.000 (every resample alike)"
    assert with_interval(None) == "–"


def test_a_temperature_at_its_bound_is_a_warning() -> None:
    assert "next to nothing" in temperature_warning("int8", 19.99999999)
    assert "too few X-rays" in temperature_warning("int8", 0.05)
    assert temperature_warning("int8", 1.3) == temperature_warning("int8", None) == ""


def test_an_attribute_that_is_the_same_in_every_file_is_a_dash(scored_set: Make, evaluation_of: Evaluate) -> None:
    scored = scored_set("inside", strength=2.0)
    scored.attributes[:, 0] = 1024.0
    evaluation = evaluation_of([scored])
    assert "\n| inside | – | 0." in markdown(evaluation)
