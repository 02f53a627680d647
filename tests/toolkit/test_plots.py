"""Plots are well-formed SVG that fits into a page: own ids, the page's colour, nothing from outside."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from toolkit.plots import Curve, Range, confusion_plot, interval_plot, learning_curves, reliability_plot, roc_plot

NASTY = 'a <b> & "c" $d$ _e'
COUNTS = {"true_positives": 90, "false_negatives": 10, "true_negatives": 0, "false_positives": 0}
PHASES: list[dict[str, Any]] = [
    {"name": "float", "epochs": [{"epoch": 1, "loss": 0.7}, {"epoch": 2, "loss": 0.5, "val_loss": None}]},
    {"name": "prune", "epochs": []},
    {"name": "qat", "epochs": [{"epoch": 1, "loss": 0.4}]},
]
PLOTS = {
    "roc": lambda: roc_plot([Curve(NASTY, [0, 0.5, 1], [0, 0.8, 1])], key="k1"),
    "reliability": lambda: reliability_plot([Curve(NASTY, [0.5], [0.4])] * 7, key="k1"),
    "confusion": lambda: confusion_plot(COUNTS, labels=("normal", NASTY), key="k1"),
    "learning": lambda: learning_curves(PHASES, keys=("loss", "val_loss"), title="loss", key="k1"),
    "interval": lambda: interval_plot(
        [Range(NASTY, 0.9, 0.8, 0.95), Range("b", 0.4, None, None)], x="AUROC", chance=0.5, key="k1"
    ),
}


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_fits_into_a_page(plot: object) -> None:
    svg = plot()  # type: ignore[operator]
    root = ET.fromstring(svg)  # noqa: S314  our own text
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("viewBox")
    assert root.get("aria-hidden") == "true"
    assert root.get("width") is None
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert all(name.startswith("k1-") for name in ids)
    used = re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg)
    assert set(used) <= set(ids)
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "<style" not in svg
    assert "font-family" not in svg
    assert not re.search(r"(?:href|src)=\"(?!#)", svg)


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_the_same_every_time(plot: object) -> None:
    assert plot() == plot()  # type: ignore[operator]


def test_text_is_text_and_escaped() -> None:
    svg = PLOTS["confusion"]()
    assert "&lt;b&gt;" in svg
    assert "$d$" in svg
    assert "90%" in svg
    assert svg.count("0%") >= 2  # a class without X-rays divides by nothing


def test_names_that_are_no_text_are_drawn_all_the_same() -> None:
    name = "caf\udce9 肺"
    assert "caf\\udce9 肺" in roc_plot([Curve(name, [0.0, 1.0], [0.0, 1.0])], key="k")
    assert "caf\\udce9 肺" in interval_plot([Range(name, 0.5, 0.4, 0.6)], x="AUROC", chance=0.5, key="k")
    counts = dict.fromkeys(("true_positives", "false_negatives", "true_negatives", "false_positives"), 1)
    assert "caf\\udce9 肺" in confusion_plot(counts, labels=("no", name), key="k")
