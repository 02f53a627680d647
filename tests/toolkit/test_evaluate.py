"""Real `.tflite` files on the real sample X-rays: the same scores as on the device, and a report whatever comes."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from firmware_bridge.errors import ConfigError, InputError, MissingExtraError, ModelError
from firmware_bridge.interpreter import open_interpreter
from firmware_bridge.manifest import CalibrationEntry, ModelEntry
from firmware_bridge.preprocess import Preprocessing
from firmware_bridge.score import Calibration, Head, Scorer
from toolkit.bundle import build_bundle
from toolkit.cli.evaluate import command
from toolkit.data.index import Index, Xray
from toolkit.evaluate import evaluate, parse_named_index
from toolkit.model_files import from_bundle, from_file, from_run
from toolkit.score_index import NamedIndex, score_index
from toolkit.summary import Options
from toolkit.summary_text import markdown
from toolkit.under_test import baseline_of, with_unique_names

FAST = Options(resamples=30)
LABELS = ("normal", "pneumonia")
CALIBRATION = {"temperature": 2.0, "bias": 0.1, "threshold": 0.5, "wished_sensitivity": 0.95}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """A training run of the tiny models."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    (folder / "models").mkdir(parents=True)
    data = samples.parent / "tests" / "data"
    for name, source in (("int8", "int8"), ("fp16", "float")):
        shutil.copy(data / f"tiny.{source}.tflite", folder / "models" / f"model.{name}.tflite")
        shutil.copy(data / "tiny.head.npy", folder / "models" / f"head.{name}.npy")
    (folder / "calibration.json").write_text(json.dumps({"models": {"model.int8.tflite": CALIBRATION}}))
    return folder


@pytest.fixture
def inside(samples: Path) -> NamedIndex:
    """Twelve samples."""
    return parse_named_index(f"inside={samples / 'index.csv'}:test")


def _named(rows: list[Xray], name: str = "outside") -> NamedIndex:
    return NamedIndex(name, Path("made.csv"), "", Index(tuple(rows)))


def test_the_same_logit_as_on_the_device(run: Path, inside: NamedIndex) -> None:
    models = from_run(run)
    scored = score_index(inside, models, labels=LABELS)
    assert [row.path for row in scored.rows] == [row.path for row in inside.index]
    for model in models:
        assert model.head is not None
        scorer = Scorer(
            open_interpreter(model.content),
            model.head,
            Calibration(model.temperature, model.bias, 0.5),
            model.preprocessing,
        )
        for i, row in enumerate(scored.rows[:6]):
            on_device = scorer.score(row.path)
            assert scored.logits[model.name][i] == pytest.approx(on_device.logit, abs=1e-6)
            assert scored.probabilities[model.name][i] == pytest.approx(on_device.probability, abs=1e-6)
            assert scored.attributes[i, 0] == row.width_px


@pytest.mark.parametrize("workers", [1, 4])
def test_threads_change_nothing(run: Path, inside: NamedIndex, workers: int) -> None:
    found = score_index(inside, from_run(run), labels=LABELS, workers=workers)
    np.testing.assert_array_equal(
        found.logits["int8"], score_index(inside, from_run(run), labels=LABELS, workers=2).logits["int8"]
    )


def test_everything_is_written(run: Path, inside: NamedIndex, samples: Path, tmp_path: Path) -> None:
    outside = parse_named_index(f"outside-again={samples / 'index.csv'}:validation")
    found = evaluate(from_run(run), [inside, outside], out=tmp_path / "out", options=FAST)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == found
    assert found["notice"] in (tmp_path / "out" / "evaluation.html").read_text()
    assert [model["name"] for model in found["models"]] == ["int8", "fp16"]
    assert found["models"][0]["temperature"] == 2.0
    assert found["models"][0]["delegate"] in ("XNNPACK", "none")
    assert found["models"][1]["threshold"] is None
    assert "sensitivity" in found["sets"][0]["results"]["int8"]["metrics"]
    assert "sensitivity" not in found["sets"][0]["results"]["fp16"]["metrics"]
    assert {gap["model"] for gap in found["gaps"]} == {"int8", "fp16"}
    assert {(pair["set"], pair["model"]) for pair in found["paired"]} == {("inside", "int8"), ("outside-again", "int8")}
    with (tmp_path / "out" / "scores" / "inside.int8.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "patient", "label", "logit", "probability"]
    assert [row["path"] for row in rows] == [str(row.path) for row in inside.index]
    expected = 1 / (1 + np.exp(-(float(rows[0]["logit"]) / 2.0 + 0.1)))
    assert float(rows[0]["probability"]) == pytest.approx(expected, abs=1e-5)


def test_xrays_that_were_trained_on_are_counted_and_said(run: Path, samples: Path, tmp_path: Path) -> None:
    trained = tmp_path / "run"
    shutil.copytree(run, trained)
    index = Index.read(samples / "index.csv")
    index.write(trained / "index.csv")
    # The run knows its own X-rays, whatever the index says that is given here, and wherever it stands.
    unsplit = Index(tuple(replace(row, split="") for row in index))
    named = [NamedIndex(name, samples / "index.csv", "", unsplit) for name in ("inside", "elsewhere")]
    named.append(parse_named_index(f"inside-test={samples / 'index.csv'}:test"))
    found = evaluate(from_run(trained), named, out=tmp_path / "out", options=FAST)
    learned = len(index) - len(index.select(split="test"))
    assert [one["seen"] for one in found["sets"]] == [learned, learned, 0]
    warning = f"{learned} of the {len(index)} X-rays of 'inside' are from the training or validation split"
    assert warning in markdown(found)
    assert "promise too much" in (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")


def test_without_a_run_the_splits_of_an_index_inside_tell(run: Path, samples: Path) -> None:
    index = samples / "index.csv"
    validation = len(Index.read(index).select(split="validation"))
    for name, seen in (("inside", validation), ("outside", 0)):
        named = parse_named_index(f"{name}={index}:validation")
        assert score_index(named, from_run(run), labels=LABELS).seen == seen


def test_what_cannot_be_read_is_listed_and_ends_nothing(run: Path, inside: NamedIndex, tmp_path: Path) -> None:
    (tmp_path / "näme\nwith <b>.jpg").write_bytes(b"")
    (tmp_path / "cut.jpg").write_bytes(inside.index.rows[0].path.read_bytes()[:300])
    bad = [tmp_path / "näme\nwith <b>.jpg", tmp_path / "cut.jpg", tmp_path / "missing.png"]
    rows = [*inside.index, *(Xray(path, "normal", str(i)) for i, path in enumerate(bad))]
    rows.append(Xray(inside.index.rows[0].path, "Cardiomegaly", "9"))
    found = evaluate(from_run(run), [_named(rows)], out=tmp_path / "out", options=FAST)
    (one,) = found["sets"]
    assert one["images"] == 12
    assert [entry["path"] for entry in one["unreadable"]] == [str(path) for path in bad]
    assert all(entry["reason"] for entry in one["unreadable"])
    assert one["left_out"] == {"Cardiomegaly": 1}
    html = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert "3 unreadable X-rays" in html
    assert "<b>.jpg" not in html


def test_nothing_to_score(run: Path, inside: NamedIndex, tmp_path: Path) -> None:
    models = from_run(run)
    with pytest.raises(InputError, match=r"(?s)holds nothing to score.*6 of 'normal'.*--label VALUE=LABEL"):
        score_index(inside, models, labels=("well", "sick"))
    with pytest.raises(InputError, match=r"(?s)none of the X-rays.*missing\.png"):
        score_index(_named([Xray(tmp_path / "missing.png", "normal", "1")]), models, labels=LABELS)


def test_a_bundle(run: Path, tmp_path: Path) -> None:
    entry = CalibrationEntry(1.5, 0.0, 0.3, wished_sensitivity=0.9)
    path = build_bundle(
        tmp_path / "a.cxr",
        name="a",
        labels=("clear", "sick"),
        preprocessing=from_file(run / "models" / "model.int8.tflite").preprocessing.to_manifest(),
        models=[ModelEntry("models/model.int8.tflite", "int8", "models/head.int8.npy", entry)],
        files={f"models/{name}": run / "models" / name for name in ("model.int8.tflite", "head.int8.npy")},
    )
    (model,) = from_bundle(path)
    assert (model.name, model.temperature, model.threshold, model.labels) == ("int8", 1.5, 0.3, ("clear", "sick"))
    assert model.open().interpreter.threads == 1


def test_a_bare_file_uses_its_own_probability(run: Path, inside: NamedIndex, tmp_path: Path) -> None:
    shutil.copy(run / "models" / "model.int8.tflite", tmp_path / "other.tflite")
    bare = from_file(tmp_path / "other.tflite")
    assert (bare.name, bare.precision, bare.head, bare.threshold) == ("other", "", None, None)
    found = score_index(inside, [bare], labels=LABELS)
    steps = found.probabilities["other"] * 256
    np.testing.assert_allclose(steps, np.round(steps), atol=0.51)
    assert bare.to_json()["logit_from"] == "probability output"


@pytest.mark.parametrize(
    ("file", "name", "precision"),
    [
        ("model.int8.tflite", "int8", "int8"),
        ("model.ptq.int8.tflite", "ptq.int8", "ptq.int8"),
        ("b0.fp16.tflite", "b0.fp16", "fp16"),
        ("b0.v2.tflite", "b0.v2", ""),
        ("model.tflite", "model", ""),
    ],
)
def test_the_file_name_tells_the_precision(run: Path, tmp_path: Path, file: str, name: str, precision: str) -> None:
    shutil.copy(run / "models" / "model.int8.tflite", tmp_path / file)
    found = from_file(tmp_path / file)
    assert (found.name, found.precision) == (name, precision)


def test_names_are_unique(run: Path) -> None:
    named = with_unique_names([*from_run(run), *from_run(run)])
    assert [model.name for model in named] == ["int8-1", "fp16-1", "int8-2", "fp16-2"]
    assert baseline_of(named) == "fp16-1"
    assert baseline_of(named[:1]) is None
    with pytest.raises(ConfigError, match="no model"):
        with_unique_names([])


def test_a_head_of_another_model(run: Path, inside: NamedIndex, tmp_path: Path) -> None:
    shutil.copytree(run / "models", tmp_path / "models")
    (tmp_path / "models" / "head.int8.npy").write_bytes(Head(np.ones(3, np.float32), 0.0).to_bytes())
    model = from_file(tmp_path / "models" / "model.int8.tflite")
    with pytest.raises(ModelError, match="head does not fit"):
        score_index(inside, [model], labels=LABELS)


def test_missing_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"(?s)holds no model.*train-qat INDEX --out \S+ --name"):
        from_run(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        from_run(tmp_path / "nope")
    with pytest.raises(ModelError, match="cannot be read"):
        from_file(tmp_path / "no.tflite")


@pytest.mark.parametrize(
    "text",
    ["{", "null", '{"models": 1}', '{"models": {"int8": {"temperature": "hot"}}}', "[" * 100_000],
)
def test_a_broken_calibration(run: Path, tmp_path: Path, text: str) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "calibration.json").write_text(text)
    with pytest.raises(ModelError, match=r"calibration\.json cannot be read"):
        from_run(tmp_path / "run")


@pytest.mark.parametrize("text", ["index.csv", "=index.csv", "inside=", "a/b=index.csv", "../x=index.csv"])
def test_an_index_that_is_not_understood(text: str) -> None:
    with pytest.raises(ConfigError, match="is not understood"):
        parse_named_index(text)


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "odd:name.csv"
    path.write_text("path,label,patient_id,split\na.png,normal,1,train\n")
    assert len(parse_named_index(f"inside={path}").index) == 1
    assert parse_named_index(f"inside={path}:train").split == "train"
    with pytest.raises(ConfigError, match="no rows of the split 'test'"):
        parse_named_index(f"inside={path}:test")


def test_two_sets_of_one_name(run: Path, inside: NamedIndex, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be told apart"):
        evaluate(from_run(run), [inside, inside], out=tmp_path)
    with pytest.raises(ConfigError, match="nothing to score"):
        evaluate(from_run(run), [], out=tmp_path)


def test_the_command(run: Path, samples: Path, tmp_path: Path) -> None:
    index = samples / "index.csv"
    arguments = ["--run", str(run), "--out", str(tmp_path / "out"), "--resamples", "20", "--threshold", "0.5"]
    arguments += ["--index", f"inside={index}:test", "--index", f"outside={index}:validation"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "Not for diagnosis" in result.stdout
    assert "| int8 | outside | 12 (6 positive) |" in result.stdout
    assert "int8 minus fp16" in result.stdout
    assert (tmp_path / "out" / "evaluation.html").is_file()


def test_the_command_refuses_one_label_for_both(run: Path, samples: Path, tmp_path: Path) -> None:
    arguments = ["--run", str(run), "--out", str(tmp_path), "--index", f"inside={samples / 'index.csv'}"]
    with pytest.raises(ConfigError, match="same label"):
        CliRunner().invoke(command, [*arguments, "--positive", "normal"], catch_exceptions=False)


def test_preprocessing_of_a_bare_file_has_its_size(run: Path) -> None:
    model = from_file(run / "models" / "model.int8.tflite")
    assert model.preprocessing == Preprocessing.default(model.open().interpreter.size_px)


def test_a_misspelt_split_is_named(samples: Path) -> None:
    with pytest.raises(ConfigError, match=r"'tset' in .* is no split"):
        parse_named_index(f"inside={samples / 'index.csv'}:tset")


def test_a_missing_extra_is_told_before_anything_is_scored(
    run: Path, inside: NamedIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[train\]'"):
        evaluate(from_run(run), [inside], out=tmp_path / "out", options=FAST)
    assert not (tmp_path / "out").exists()
