"""Tables, pictures and the page, from a stored run."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page import BEGIN, COST_PLOT, END, PAGE, TIME_PLOT, update
from benchmarks.plot import time_plot
from benchmarks.table import tables
from firmware_bridge.errors import ConfigError

STORED = Path(__file__).with_name("data") / "report.json"


@pytest.fixture
def report() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(STORED.read_text(encoding="utf-8"))
    return stored


def test_the_tables_hold_what_was_measured(report: dict[str, Any]) -> None:
    text = tables(report)
    row = next(row for row in report["rows"] if row["ratios"] and row["auroc"])
    stages = row["stages_ms"]["infer"]
    (line,) = [
        line
        for line in text.splitlines()
        if line.startswith(f"| {row['name']} | {row['threads']} | {stages['p50']:.1f} ({stages['p95']:.1f}) ")
    ]
    assert f"| {row['ratios']['infer']:.2f} |" in line
    assert f"| {row['auroc']['value']:.4f} (" in text
    widths = [len(re.findall(r"\|", line)) for line in text.splitlines() if line.startswith("|")]
    assert set(widths) == {7, 9}


def test_the_pictures_are_svg_with_every_name_and_the_same_every_time(report: dict[str, Any]) -> None:
    svg = time_plot(report, threads=1)
    ET.fromstring(svg)  # noqa: S314  our own text
    for row in report["rows"]:
        assert row["name"] in svg
    assert svg == time_plot(report, threads=1)


def test_the_page_keeps_what_people_wrote_and_changes_once(report: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / PAGE
    page.write_text(f"before\n\n{BEGIN}\nstale figures\n{END}\n\nafter\n", encoding="utf-8")
    update(report, tmp_path)
    once = page.read_text(encoding="utf-8")
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert "stale figures" not in once
    assert TIME_PLOT in once
    assert (tmp_path / COST_PLOT).stat().st_size > 1000
    update(report, tmp_path)
    assert page.read_text(encoding="utf-8") == once


def test_a_page_without_marks_is_left_alone(report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / PAGE).write_text("nothing", encoding="utf-8")
    with pytest.raises(ConfigError, match="no place"):
        update(report, tmp_path)
    assert (tmp_path / PAGE).read_text(encoding="utf-8") == "nothing"
