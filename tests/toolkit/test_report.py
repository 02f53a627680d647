"""The report of a run: complete, escaped, self-contained, accessible; made from whatever is there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.calibrate import calibrate
from firmware_bridge.errors import InputError
from firmware_bridge.result import NOTICE
from toolkit.report import training_report
from toolkit.summary import ScoredSet


def _history() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    phases = []
    loss, auroc, number = 0.7, 0.6, 0
    for name, epochs in (("float", 8), ("prune", 3), ("qat", 3)):
        done = []
        for epoch in range(1, epochs + 1):
            number += 1
            loss, auroc = loss * 0.9, min(0.985, auroc + (0.99 - auroc) * 0.4)
            done.append(
                {
                    "epoch": epoch,
                    "loss": loss,
                    "val_loss": loss * 1.1 + 0.02 * rng.normal(),
                    "val_auroc": auroc + 0.004 * rng.normal(),
                    "seconds": 61.2,
                    "input_wait_share": 0.012,
                }
            )
        phases.append({"name": name, "epochs": done})
    return {"phases": phases}


def _export() -> dict[str, Any]:
    def model(file: str, precision: str, size: int, auroc: float, operators: dict[str, int]) -> dict[str, Any]:
        return {
            "file": file,
            "precision": precision,
            "bytes": size,
            "gzip_bytes": int(size * 0.85),
            "zero_share_pruned": 0.301,
            "zero_share_total": 0.284,
            "operators": operators,
            "partitions": 1,
            "float_operators": 0 if "int8" in precision else 223,
            "max_abs_diff": 0.0741,
            "mean_abs_diff": 0.0061,
            "max_abs_diff_float": 0.2345,
            "mean_abs_diff_float": 0.0456,
            "auroc_validation": auroc,
        }

    counts = {"CONV_2D": 65, "LOGISTIC": 66, "MUL": 65, "DEPTHWISE_CONV_2D": 16, "MEAN": 17, "ADD": 9}
    return {
        "models": [
            model("model.int8.tflite", "int8", 4_890_000, 0.9801, {**counts, "FULLY_CONNECTED": 1}),
            model("model.fp16.tflite", "fp16", 8_100_000, 0.9829, {**counts, "DEQUANTIZE": 130}),
            model("model.ptq.int8.tflite", "ptq.int8", 4_890_000, 0.9777, counts),
        ],
        "layers": [
            {"name": f"block{i}_expand", "shape": [1, 1, 16, 96], "zeros": 461, "share": 0.3001, "pruned": True}
            for i in range(1, 17)
        ],
    }


def _calibration() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    logits = 6 * (labels - 0.5) + 2 * rng.normal(size=300)
    fit = calibrate(logits, labels, patients=np.arange(300), resamples=50).to_json()
    return {"models": {"model.int8.tflite": fit, "model.fp16.tflite": fit}}


AUDIT = {
    "leaks": True,
    "leak_reasons": ["3 patients are in train and test."],
    "summary": {"images": 64, "patients": 64, "exact_pairs": 0, "labels": {"normal": 32}},
    "notes": ["Ages are missing."],
    "shortcuts": [{"attribute": "mean_grey", "auroc": 0.65}],
}
AGENT = [
    {
        "image": {"id": "ab12", "name": "<img src=x>.jpg"},
        "decision": "positive",
        "label_positive": "pneumonia",
        "probability": 0.93,
        "threshold": 0.41,
        "timings_ms": {"decode": 7.9, "preprocess": 0.4, "infer": 3.0},
    },
    {
        "image": {"id": "cd34"},
        "refused": {"what": "the image cannot be read", "expected": "", "came": "0 bytes", "do": ""},
    },
]


@pytest.fixture(scope="module")
def parts(
    scored_set: Callable[..., ScoredSet], evaluation_of: Callable[[list[ScoredSet]], dict[str, Any]]
) -> dict[str, Any]:
    """What the JSON files of a finished run hold."""
    sets = [scored_set("inside", strength=3.0), scored_set("outside-nih", strength=0.2, seed=1)]
    return {
        "history": _history(),
        "export": _export(),
        "calibration": _calibration(),
        "evaluation": evaluation_of(sets),
        "audit": AUDIT,
        "agent": AGENT,
    }


@pytest.fixture
def run_dir(tmp_path: Path, parts: dict[str, Any]) -> Path:
    """A finished run."""
    folder = tmp_path / "a <run>"
    folder.mkdir()
    for name, part in parts.items():
        (folder / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
    (folder / "config.toml").write_text('name = "<demo>"\n', encoding="utf-8")
    (folder / "index.csv").write_text(
        "path,label,patient_id,split\na.png,normal,1,train\nb.png,pneumonia,2,test\n", encoding="utf-8"
    )
    return folder


class _Page(HTMLParser):
    """What a screen reader would find, and whether every element is closed."""

    VOID = frozenset({"meta", "link", "br", "img", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.headings: list[int] = []
        self.unnamed: list[str] = []
        self.scopes = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in told:
            self.ids.append(str(told["id"]))
        if tag == "a":
            self.links.append(str(told.get("href")))
        self.sources += [str(told[name]) for name in ("src", "data", "srcset") if name in told]
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if told.get("role") in ("img", "region") and not told.get("aria-label"):
            self.unnamed.append(tag)
        self.scopes += "scope" in told

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if "id" in dict(attrs):
            self.ids.append(str(dict(attrs)["id"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _parse(html: str) -> _Page:
    page = _Page()
    page.feed(html)
    assert page.open == []
    return page


def test_the_whole_report(run_dir: Path) -> None:
    path = training_report(run_dir)
    assert path == run_dir / "report.html"
    html = path.read_text(encoding="utf-8")
    page = _parse(html)
    assert html.index(NOTICE) < html.index("<h1")
    assert html.count(NOTICE) >= 2
    assert page.headings[0] == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert page.sources == []
    assert page.unnamed == []
    assert page.scopes > 50
    for words in (
        "int8: AUROC falls from 0.9",
        "30.1%",
        "4.89 MB",
        "3 patients are in train and test.",
        "mean grey",
        "refused",
    ):
        assert words in html


def test_nothing_of_the_data_becomes_markup(run_dir: Path) -> None:
    html = training_report(run_dir).read_text(encoding="utf-8")
    for nasty in ("<img", "<bad>", "<run>", "<demo>", "<script"):
        assert nasty not in html
    assert "&lt;img src=x&gt;.jpg" in html


def test_no_address_of_another_place(run_dir: Path) -> None:
    html = training_report(run_dir).read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", html))
    assert all(address.startswith("http://www.w3.org/") for address in addresses)  # namespaces of SVG
    assert "default-src 'none'" in html


@pytest.mark.parametrize("name", ["history", "export", "calibration", "evaluation", "audit", "agent"])
def test_each_part_is_enough(run_dir: Path, name: str) -> None:
    for path in run_dir.iterdir():
        if path.name != f"{name}.json":
            path.unlink()
    _parse(training_report(run_dir).read_text(encoding="utf-8"))


def test_a_file_has_its_difference_to_its_own_graph_and_to_the_float_model(run_dir: Path) -> None:
    html = training_report(run_dir).read_text(encoding="utf-8")
    for said in ("Changed by conversion", "0.0061", "at most 0.0741", "Changed from float", "0.0456", "at most 0.2345"):
        assert said in html


def test_an_export_without_an_evaluation_says_what_is_not_known(run_dir: Path) -> None:
    (run_dir / "evaluation.json").unlink()
    html = training_report(run_dir).read_text(encoding="utf-8")
    assert "nothing is known about other hospitals" in html


def test_a_float_file_alone_is_not_called_deployed(run_dir: Path) -> None:
    export = _export()
    export["models"] = [{**export["models"][1], "file": "model.float.tflite", "precision": "float"}]
    (run_dir / "export.json").write_text(json.dumps(export), encoding="utf-8")
    page = training_report(run_dir).read_text(encoding="utf-8")
    assert "for no device" in page
    assert "Deployed file" not in page


def test_made_again_replaces_the_old_one(run_dir: Path) -> None:
    training_report(run_dir)
    (run_dir / "agent.json").unlink()
    assert "refused" not in training_report(run_dir).read_text(encoding="utf-8")
    assert [path.name for path in run_dir.glob(".*")] == []


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to report"):
        training_report(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        training_report(tmp_path / "missing")


def test_broken_json(run_dir: Path) -> None:
    (run_dir / "history.json").write_text('{"phases": [', encoding="utf-8")
    with pytest.raises(InputError, match=r"history\.json cannot be read"):
        training_report(run_dir)


def test_a_temperature_at_its_bound_is_told(run_dir: Path) -> None:
    file = run_dir / "calibration.json"
    calibration = json.loads(file.read_text())
    calibration["models"]["model.int8.tflite"]["temperature"] = 20.0
    file.write_text(json.dumps(calibration))
    html = training_report(run_dir).read_text(encoding="utf-8")
    assert html.count("the logits carry next to nothing") == 1
