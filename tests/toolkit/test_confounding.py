from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.metrics import auroc, auroc_within
from firmware_bridge.errors import InputError
from toolkit.confounding import confounding
from toolkit.data.index import Xray

ROW = Xray(path=Path("x.jpg"), label="", patient_id="", source="made", view="", age=None, sex="", split="")


def test_within_by_hand() -> None:
    # AP: both of two pairs right. PA: one of two. Weighed by positives: 2 in AP, 1 in PA.
    labels = [1, 1, 0, 1, 0, 0]
    scores = [0.9, 0.8, 0.7, 0.2, 0.3, 0.1]
    assert auroc_within(labels, scores, ["AP"] * 3 + ["PA"] * 3) == pytest.approx((2 * 1.0 + 1 * 0.5) / 3)


def test_strata_of_one_class_are_left_out() -> None:
    labels, scores = [1, 0, 1, 1], [0.9, 0.1, 0.5, 0.4]
    assert auroc_within(labels, scores, ["a", "a", "b", "b"]) == 1.0
    with pytest.raises(InputError, match="no stratum"):
        auroc_within([1, 0], [0.1, 0.2], ["a", "b"])


def test_a_score_that_reads_the_view_and_not_the_disease() -> None:
    rng = np.random.default_rng(0)
    view = rng.choice(["AP", "PA"], 600)
    # Most of the sick were lying: a score that reads the view alone looks useful.
    positive = rng.random(600) < np.where(view == "AP", 0.8, 0.2)
    scores = np.where(view == "AP", 0.7, 0.3) + rng.normal(0.0, 0.05, 600)
    rows = [replace(ROW, view=str(one)) for one in view]
    patients = np.arange(600).astype(str)
    assert auroc(positive, scores) > 0.75
    (found,) = confounding(rows, positive, scores, patients, resamples=50, seed=0)
    assert found["by"] == "view"
    assert found["within"]["low"] < 0.5 < found["within"]["high"]
    assert found["reads"]["value"] > 0.99


def test_the_disease_alone() -> None:
    rng = np.random.default_rng(1)
    positive = rng.random(600) < 0.5
    scores = positive + rng.normal(0.0, 0.5, 600)
    taken = rng.choice(["AP", "PA"], 600)
    rows = [replace(ROW, view=str(one), sex="F" if one == "AP" else "M") for one in taken]
    found = confounding(rows, positive, scores, np.arange(600).astype(str), resamples=50, seed=0)
    assert [one["by"] for one in found] == ["sex", "view"]
    for one in found:
        assert one["within"]["value"] == pytest.approx(auroc(positive, scores), abs=0.02)
        assert one["reads"]["low"] < 0.55


def test_nothing_is_known() -> None:
    positive = np.array([True, False] * 10)
    assert confounding([ROW] * 20, positive, positive * 1.0, np.arange(20).astype(str), resamples=5, seed=0) == []
