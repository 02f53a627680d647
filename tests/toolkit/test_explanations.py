"""Explanations of deployed files: the closed form, who is in the gallery, the share in the lungs, the sanity check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from firmware_bridge.errors import ConfigError
from tests.toolkit.trained import DATA, trained_run
from toolkit.backbones.kinds import BACKBONES, EfficientNet
from toolkit.cli.explain import command
from toolkit.config import TrainConfig
from toolkit.explanations import GROUPS, grad_cam, scorer_of
from toolkit.model import Architecture, build_classifier
from toolkit.randomize import randomization, rank_correlation
from toolkit.tf import keras, tf
from toolkit.under_test import from_file


def test_grad_cam_is_what_gradients_give() -> None:
    maps = np.random.default_rng(0).normal(size=(5, 6, 8)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=8).astype(np.float32)
    given = tf.Variable(maps)
    with tf.GradientTape() as tape:
        score = tf.reduce_sum(tf.reduce_mean(given, axis=(0, 1)) * weights)
    alpha = tape.gradient(score, given).numpy().mean(axis=(0, 1))
    expected = np.maximum((maps * alpha).sum(axis=2), 0)
    np.testing.assert_allclose(grad_cam(maps, weights), expected / expected.max(), atol=1e-5)
    assert not grad_cam(np.abs(maps), -np.abs(weights)).any()


def test_the_gallery_of_both_files(samples: Path, tmp_path: Path) -> None:
    index = samples / "index.csv"
    run = trained_run(index, TrainConfig(name="run"), out=tmp_path, say=lambda _: None).folder
    out = tmp_path / "out"
    arguments = ["--run", str(run), "--index", f"inside={index}", "--out", str(out), "--no-sanity", "--each", "2"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert "Not for diagnosis" in result.output
    said = json.loads((out / "explanations.json").read_text())
    assert said["images"] == 64
    assert [one["model"] for one in said["models"]] == ["int8", "float"]
    groups = [one["group"] for one in said["gallery"]]
    assert set(groups) <= set(GROUPS)
    assert all(groups.count(group) <= 2 for group in GROUPS)
    for one in said["gallery"]:
        first = one["views"][0]
        called = first["probability"] >= 0.5
        assert (called == (one["label"] == "pneumonia")) == one["group"].startswith("right")
        assert all((out / file).is_file() for view in one["views"] for file in view["overlays"].values())
    page = (out / "explanations.html").read_text()
    assert page.count("data:image/png;base64,") == 4 * len(said["gallery"])
    assert "Not for diagnosis" in page


def test_a_bare_file_without_a_threshold_cannot_be_explained() -> None:
    with pytest.raises(ConfigError, match="cannot be explained"):
        scorer_of(from_file(DATA / "tiny.int8.tflite"))


def test_rank_correlation() -> None:
    values = np.random.default_rng(0).normal(size=(7, 7))
    assert rank_correlation(values, np.exp(values)) == pytest.approx(1.0)
    assert rank_correlation(values, -values) == pytest.approx(-1.0)
    assert rank_correlation(values, np.zeros_like(values)) == 0.0
    assert rank_correlation(np.array([1, 1, 2]), np.array([5, 5, 9])) == pytest.approx(1.0)


def test_maps_change_with_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = EfficientNet("tiny", "relu6", False, blocks=((3, 1, 8, 1, 2),), stem_channels=8, feature_channels=16)
    monkeypatch.setitem(BACKBONES, "tiny", kind)
    keras.utils.set_random_seed(4)
    model: Any = build_classifier(Architecture(backbone="tiny", size_px=64))
    pixels = np.random.default_rng(2).integers(0, 256, (4, 64, 64), np.uint8)
    before = {layer.name: layer.get_weights() for layer in model.layers}
    rows = randomization(model, pixels)
    assert rows[0]["from"] == "logit"
    assert rows[-1]["from"] == "stem_conv"
    assert [row["share"] for row in rows] == sorted(row["share"] for row in rows)
    assert rows[-1]["share"] == 1.0
    assert abs(rows[-1]["correlation"]) < 0.6
    for layer in model.layers:
        for old, new in zip(before[layer.name], layer.get_weights(), strict=True):
            np.testing.assert_array_equal(np.sort(old.ravel()), np.sort(new.ravel()))
