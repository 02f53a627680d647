"""The model card in a bundle: figures of its own files alone, by set and group, and what people wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import BundleError, ConfigError, ResourceError
from firmware_bridge.shipped import shipped_bundle, shipped_names
from toolkit.bundle_folder import bundle_from_run
from toolkit.cli.bundle import command
from toolkit.data.index import Index
from toolkit.evaluate import evaluate
from toolkit.model_card import CARD, add_card, model_card, outdated_card, read_about, read_card, read_evaluation
from toolkit.model_files import from_run
from toolkit.score_index import NamedIndex
from toolkit.summary import Options
from toolkit.summary_text import markdown_table


@pytest.fixture
def evaluated(run: Path) -> Path:
    """A run with an evaluation of its int8 file, on X-rays that say age, sex and view."""
    index = Index.read(run / "index.csv")
    rows = [replace(row, age=4 if i % 2 else 30, sex="FM"[i // 2 % 2]) for i, row in enumerate(index.rows)]
    named = NamedIndex("inside", run / "index.csv", "", index.with_rows(rows))
    evaluate(from_run(run), [named], out=run, options=Options(resamples=20))
    return run


def test_a_run_puts_its_figures_into_the_card_of_its_bundle(evaluated: Path, tmp_path: Path) -> None:
    bundle = bundle_from_run(evaluated, tmp_path / "a.cxr", golden=0, about="## Intended use\n\nFor this test.")
    card = read_card(bundle)
    assert "Not for diagnosis" in card
    assert "For this test." in card
    said = read_evaluation(evaluated / "evaluation.json")
    value = said["sets"][0]["results"]["int8"]["metrics"]["auroc"]["value"]
    assert f"| int8 | inside | 64 (32 positive) | {value:.3f} (" in card
    for group in ("age 0 to 5", "age 18 to 39", "sex F", "sex M"):
        assert f"| inside | {group} |" in card


def test_without_figures_and_words_the_card_says_so(run: Path) -> None:
    card = read_card(bundle_from_run(run, golden=0))
    assert "Nobody has written" in card
    assert "nobody has evaluated it" in card


def test_figures_of_another_file_are_refused(evaluated: Path) -> None:
    bundle = bundle_from_run(evaluated, golden=0)
    evaluation = dict(read_evaluation(evaluated / "evaluation.json"))
    other: dict[str, Any] = {**evaluation["models"][0], "name": "float", "sha256": "0" * 64, "file": "other.tflite"}
    # A run's float file is not in the bundle, and so not in its card.
    add_card(bundle, evaluation={**evaluation, "models": [*evaluation["models"], other]})
    assert "| float |" not in read_card(bundle)
    before = bundle.read_bytes()
    with pytest.raises(BundleError, match="no figures of bundle") as told:
        add_card(bundle, evaluation={**evaluation, "models": [other]})
    assert "other.tflite" in str(told.value)
    # The same file with another threshold, as `recalibrate` makes it, decides otherwise.
    with pytest.raises(BundleError, match=r"(?s)its own temperature, bias and threshold.*at others"):
        add_card(bundle, evaluation={**evaluation, "models": [{**evaluation["models"][0], "threshold": 0.123}]})
    assert bundle.read_bytes() == before


@pytest.mark.parametrize("figures", [{}, {"models": 1}, {"models": [{}]}, {"models": []}])
def test_figures_of_another_form_are_refused(evaluated: Path, figures: dict[str, Any]) -> None:
    bundle = bundle_from_run(evaluated, golden=0)
    with pytest.raises((ConfigError, BundleError)):
        add_card(bundle, evaluation={"kind": "cxr-edge-evaluation", **figures})


def test_words_of_the_data_are_no_markup() -> None:
    assert markdown_table(["a"], [["x | <b>\ny"]]).splitlines()[2] == r"| x \| &lt;b>\ny |"


def test_figures_that_are_older_than_the_files_stay_out(evaluated: Path) -> None:
    evaluation = json.loads((evaluated / "evaluation.json").read_text())
    evaluation["models"][0]["sha256"] = "0" * 64
    (evaluated / "evaluation.json").write_text(json.dumps(evaluation))
    assert "nobody has evaluated it" in read_card(bundle_from_run(evaluated, golden=0))


def test_add_card_changes_nothing_but_the_card(evaluated: Path, tmp_path: Path) -> None:
    bundle, out, about = bundle_from_run(evaluated, golden=2), tmp_path / "out.cxr", tmp_path / "about.md"
    about.write_text("Words of people.")
    arguments = ["add-card", str(bundle), "--out", str(out), "--about", str(about)]
    arguments += ["--evaluation", str(evaluated / "evaluation.json")]
    CliRunner().invoke(command, arguments, catch_exceptions=False)
    with open_bundle(bundle) as old, open_bundle(out) as new:
        assert new.manifest.models == old.manifest.models
        assert new.manifest.golden == old.manifest.golden
        changed = [name for name in old.manifest.files if old.read(name) != new.read(name)]
        assert changed == [CARD]
    shown = CliRunner().invoke(command, ["inspect", "--card", str(out)], catch_exceptions=False)
    assert "Words of people." in shown.output


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"about\.md"):
        read_about(tmp_path / "about.md")
    other = tmp_path / "other.json"
    for text in ("", "[]", '{"kind": "something"}', "[" * 100_000):
        other.write_text(text)
        with pytest.raises(ConfigError, match=r"other\.json"):
            read_evaluation(other)


def test_a_bundle_fitted_anew_says_which_figures_are_old() -> None:
    text = outdated_card("# Model card: a\n", name="a site", sets="site")
    assert text.startswith("# a site: fitted to other X-rays")
    assert "those of the bundle before" in text
    assert text.endswith("# Model card: a\n")


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_bundle_brings_its_card(name: str) -> None:
    card = read_card(shipped_bundle(name))
    assert shipped_bundle(name).with_suffix(".about.md").read_text(encoding="utf-8").strip() in card
    for heading in ("Intended use", "Data", "Known limits", "Licence", "Figures", "What it refuses"):
        assert f"## {heading}" in card
    for group in ("sex F", "sex M", "age 18 to 39", "age 40 to 64", "view AP", "view PA"):
        assert f"| {group} |" in card


def test_a_shipped_bundle_is_not_changed_in_its_place() -> None:
    with pytest.raises(ConfigError, match="not changed in its place"):
        CliRunner().invoke(command, ["add-card", "cxr-edge/kermany"], catch_exceptions=False)
    shown = CliRunner().invoke(command, ["inspect", "cxr-edge/kermany"], catch_exceptions=False)
    assert json.loads(shown.output)["name"] == "kermany"


def test_the_card_tells_what_the_manifest_tells() -> None:
    with open_bundle(shipped_bundle()) as bundle:
        text = model_card(bundle.manifest, {})
    assert "| models/model.int8.tflite | int8, 3.96 MB; threshold 0.602, chosen for a sensitivity of 0.95 |" in text
    assert "| zeros in the pruned kernels | 30.1% |" in text
