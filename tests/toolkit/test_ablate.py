"""The ablation: a plan is read strictly, every variant gets its row, and the figures are those of the files.

Training itself is stood in for by the tiny model files; scoring and timing are real, on real X-rays.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import toolkit.ablate
from firmware_bridge.errors import ConfigError
from tests.toolkit.trained import DATA, trained_run
from toolkit.ablate import _standing, read_ablation
from toolkit.cli.ablate import command
from toolkit.config import TrainConfig

PLAN = """
train = "{index}"

[outside]
elsewhere = "{index}:validation"

[base]
size_px = 32
float_epochs = 2

[variants.mixup]
mixup = 0.5

[variants.longer]
float_epochs = 4
l2 = 1e-4
"""


@pytest.fixture(autouse=True)
def _trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit.ablate, "train_qat", trained_run)


def _plan(tmp_path: Path, samples: Path, text: str = PLAN) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(text.format(index=samples / "index.csv"))
    return path


def test_one_row_for_each_variant(tmp_path: Path, samples: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(_plan(tmp_path, samples)), "--out", str(out), "--resamples", "20"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    said = json.loads((out / "ablation.json").read_text())
    assert [(row["name"], row["changes"]) for row in said["rows"]] == [
        ("base", {}),
        ("mixup", {"mixup": 0.5}),
        ("longer", {"float_epochs": 4, "l2": 1e-4}),
    ]
    for row in said["rows"]:
        assert set(row["auroc"]) == set(row["ece"]) == {"inside", "elsewhere"}
        assert row["bytes"] == (DATA / "tiny.int8.tflite").stat().st_size
        assert abs(row["int8_loss"]["inside"]) < 0.2
        assert row["latency_ms"] > 0
        assert row["train_seconds"] == 2.5
    lines = (out / "ablation.md").read_text().splitlines()
    assert sum(line.startswith("|") for line in lines) == 5
    assert "of 'elsewhere' are from the training or validation split" in lines[-1]
    assert "mixup (mixup = 0.5)" in lines[3]
    assert lines[0] in result.output


def test_started_again_only_what_changed_is_trained(
    tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def counted(source: Path, config: TrainConfig, **options: Any) -> Any:
        trained.append(config.name)
        return trained_run(source, config, **options)

    monkeypatch.setattr(toolkit.ablate, "train_qat", counted)

    def ablation(text: str, *options: str) -> list[str]:
        trained.clear()
        arguments = [str(_plan(tmp_path, samples, text)), "--out", str(tmp_path / "out"), "--resamples", "20", *options]
        CliRunner().invoke(command, arguments, catch_exceptions=False)
        return list(trained)

    assert ablation(PLAN) == ["base", "mixup", "longer"]
    assert ablation(PLAN) == []
    assert ablation(PLAN.replace("mixup = 0.5", "mixup = 0.4")) == ["mixup"]
    assert ablation(PLAN.replace("mixup = 0.5", "mixup = 0.4"), "--seed", "1") == ["base", "mixup", "longer"]
    assert ablation(PLAN.replace("float_epochs = 2", "float_epochs = 3")) == ["base", "mixup", "longer"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("mixup = 0.5\n", "unknown key 'mixxup'"),
        ("mixup = 0.5", "out of range"),
        ("[variants.mixup]\nmixup = 0.5", "is the base"),
        ("train = ", "no plan of an ablation"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_is_trained(
    tmp_path: Path, samples: Path, change: str, message: str
) -> None:
    right = {
        "unknown key 'mixxup'": "mixxup = 0.5\n",
        "out of range": "mixup = 1.5",
        "is the base": "[variants.mixup]",
        "no plan of an ablation": "trained = ",
    }
    assert change in PLAN
    with pytest.raises(ConfigError, match=message):
        read_ablation(_plan(tmp_path, samples, PLAN.replace(change, right[message])))


@pytest.mark.parametrize("text", ["variants = {a = 3}", "base = 3", "outside = {a = 3}", "variants = 3"])
def test_a_plan_of_other_kinds_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.toml").write_text(f'train = "index.csv"\n{text}\n')
    with pytest.raises(ConfigError, match="no plan of an ablation"):
        read_ablation(tmp_path / "plan.toml")


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"base": "", "rows": [{}]}'])
def test_rows_that_cannot_be_read_are_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "ablation.json").write_text(text)
    with pytest.raises(ConfigError, match=r"ablation\.json cannot be read"):
        _standing(tmp_path / "ablation.json", base="", inputs=None)  # type: ignore[arg-type]
