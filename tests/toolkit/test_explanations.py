"""Explanations of deployed files: the closed form, who is in the gallery, the share in the lungs, the sanity check."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from firmware_bridge.errors import ConfigError
from firmware_bridge.shipped import shipped_bundle
from tests.toolkit.trained import DATA, trained_run
from toolkit.backbones.kinds import BACKBONES, EfficientNet
from toolkit.cli.explain import command
from toolkit.config import TrainConfig
from toolkit.data.index import Xray
from toolkit.explanations import GROUPS, Explained, _chosen, _summary, grad_cam, scorer_of
from toolkit.model import Architecture, build_classifier
from toolkit.model_files import from_file
from toolkit.randomize import randomization, rank_correlation, shipped_model
from toolkit.tf import keras, tf


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


ROW = Xray(path=Path("x.png"), label="pneumonia", patient_id="p")


def _explained(cam: Any, lungs: Any, *, probability: float = 0.9) -> Explained:
    cam, lungs = np.asarray(cam, np.float32), np.asarray(lungs, np.float32)
    return Explained(
        row=ROW,
        positive=True,
        probability=probability,
        threshold=0.5,
        pixels=np.zeros((8, 8), np.uint8),
        cam=cam,
        cam_plus_plus=cam,
        lung_share=float((cam * lungs).sum() / cam.sum()),
        lungs=lungs,
    )


def test_nothing_is_both_sure_and_unsure() -> None:
    flat = np.ones((2, 2))
    found = [
        replace(_explained(flat, flat, probability=p), row=replace(ROW, path=Path(f"{p}"))) for p in (0.55, 0.7, 0.95)
    ]
    assert _chosen(found, "right and sure", 3) == [Path("0.95"), Path("0.7")]
    assert _chosen(found, "right and unsure", 3) == [Path("0.55")]
    assert _chosen(found, "wrong and sure", 3) == []


def test_maps_that_follow_the_lungs_beat_their_mean() -> None:
    left, right = [[1, 0], [1, 0]], [[0, 1], [0, 1]]
    aimed = _summary("m", [_explained(left, left), _explained(right, right), _explained(left, right, probability=0.1)])
    assert (aimed["lung_share"], aimed["lung_share_of_mean_map"], aimed["lung_area"]) == (1.0, 0.5, 0.5)
    same = _summary("m", [_explained(left, left), _explained(left, left)])
    assert same["lung_share"] == same["lung_share_of_mean_map"] == 1.0
    assert _summary("m", [_explained(left, left, probability=0.1)])["lung_share_of_mean_map"] is None


def test_shipped_weights_stand_for_the_float_model_of_their_bundle(tmp_path: Path) -> None:
    model: Any = shipped_model(shipped_bundle("kermany"))
    assert model.input_shape == (None, 128, 128, 1)
    other = tmp_path / "kermany.cxr"
    other.write_bytes(shipped_bundle("kermany").read_bytes())
    assert shipped_model(other) is None
