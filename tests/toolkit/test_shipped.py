"""What comes with the package: a bundle that scores at once, and weights to start training from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import ConfigError
from firmware_bridge.golden import require_golden
from firmware_bridge.shipped import DEFAULT, bundle_path, shipped_bundle, shipped_names
from toolkit.input_scale import INPUT_SCALE
from toolkit.model import Architecture, build_classifier
from toolkit.preflight import check_weights
from toolkit.shipped_weights import load_half, save_half, shipped_weights, shipped_weights_names
from toolkit.weights import load_initial_weights

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_bundle_gives_its_own_results_here(name: str) -> None:
    with open_bundle(shipped_bundle(name)) as bundle:
        assert bundle.manifest.lungs is not None
        assert bundle.manifest.suitability is not None
        assert len(require_golden(bundle)) >= 4


def test_an_agent_without_a_bundle_takes_the_shipped_one(tmp_path: Path) -> None:
    watch = tmp_path / "watch"
    watch.mkdir()
    xray = SAMPLES / "chest_xray" / "test" / "NORMAL" / "IM-0643-0001.jpg"
    (watch / xray.name).write_bytes(xray.read_bytes())
    command = [sys.executable, "-m", "toolkit.cli.main", "agent", "--watch", str(watch), "--once", "--settle", "0"]
    done = subprocess.run(
        [*command, "--state", str(tmp_path / "state")], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((watch / f"{xray.name}.cxr.json").read_text(encoding="utf-8"))
    assert record["bundle"]["name"] == DEFAULT
    assert 0.0 <= record["probability"] <= 1.0


def test_a_bundle_that_does_not_ship_is_named_with_those_that_do() -> None:
    assert bundle_path(Path(f"cxr-edge/{DEFAULT}")) == bundle_path(None)
    assert bundle_path(Path("mine.cxr")) == Path("mine.cxr")
    with pytest.raises(ConfigError, match="cxr-edge/kermany"):
        bundle_path(Path("cxr-edge/unknown"))


def test_a_package_without_its_models_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("firmware_bridge.shipped.resources.files", lambda _: tmp_path)
    with pytest.raises(ConfigError, match="not complete") as told:
        bundle_path(None)
    assert "--bundle" in str(told.value)


@pytest.mark.parametrize("name", shipped_weights_names())
def test_training_starts_from_shipped_weights(name: str) -> None:
    weights = f"cxr-edge/{name}"
    check_weights(weights, backbone="efficientnet-lite0")
    path = shipped_weights(weights)
    assert path is not None
    model = build_classifier(Architecture(backbone="efficientnet-lite0", size_px=64))
    load_initial_weights(model, weights, backbone="efficientnet-lite0", input_scale=INPUT_SCALE)
    stored = np.load(path)
    np.testing.assert_allclose(model.get_layer("logit").get_weights()[0], stored["logit:0"].astype(np.float32))
    other = build_classifier(Architecture(size_px=64))
    with pytest.raises(ConfigError, match="belongs to another backbone"):
        load_initial_weights(other, weights, backbone="efficientnet-b0", input_scale=INPUT_SCALE)


def test_half_precision_changes_an_output_by_little(tmp_path: Path) -> None:
    arch = Architecture(backbone="efficientnet-lite0", size_px=64)
    model, again = build_classifier(arch), build_classifier(arch)
    load_initial_weights(model, "imagenet", backbone="efficientnet-lite0", input_scale=INPUT_SCALE)
    save_half(model, tmp_path / "weights.npz")
    load_half(again, tmp_path / "weights.npz")
    grey = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 1)).astype(np.float32)
    x = INPUT_SCALE.normalise(grey)
    np.testing.assert_allclose(again(x, training=False), model(x, training=False), atol=0.01)
