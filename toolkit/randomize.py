"""The sanity check of explanations: they must change when the weights do (Adebayo 2018, cascading randomization)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_bridge.bundle import open_bundle
from firmware_bridge.explain import grad_cam_plus_plus
from firmware_bridge.preprocess import Preprocessing
from firmware_bridge.shipped import PREFIX, shipped_bundle, shipped_names
from toolkit.config import read_config
from toolkit.export import two_outputs
from toolkit.input_scale import INPUT_SCALE
from toolkit.model import HEAD_LAYER, Architecture, build_classifier
from toolkit.shipped_weights import graph_of, load_half, shipped_weights
from toolkit.summary import Json
from toolkit.train import architecture
from toolkit.weights import load_weights

Grey = npt.NDArray[np.uint8]
_STAGES = 6


def trained_model(run: Path) -> Any:
    """The float model of a run.

    Raises:
        ConfigError: the run's configuration cannot be read.
        ModelError: its weights cannot be read.
    """
    model = build_classifier(architecture(read_config(run / "config.toml", {})))
    load_weights(model, run / "float" / "final.weights.h5")
    return model


def shipped_model(bundle: Path) -> Any | None:
    """The float model behind a bundle that comes with cxr-edge; None for any other bundle.

    Raises:
        BundleError: the bundle cannot be opened.
        ModelError: its weights cannot be read.
    """
    name = next((one for one in shipped_names() if shipped_bundle(one) == bundle), "")
    weights = shipped_weights(PREFIX + name) if name else None
    if weights is None:
        return None
    with open_bundle(bundle) as opened:
        size_px = Preprocessing.from_manifest(dict(opened.manifest.preprocessing)).size_px
    model = build_classifier(Architecture(backbone=graph_of(weights), size_px=size_px))
    load_half(model, weights)
    return model


def randomization(model: Any, pixels: Grey, *, seed: int = 0) -> list[Json]:
    """How alike the maps stay while more and more layers, from the head down, have their weights shuffled.

    Args:
        model: float Keras model; its weights are shuffled in place.
        pixels: (N, S, S) uint8, preprocessed X-rays.
        seed: of the shuffling.

    Returns:
        For each stage: "from" (the lowest layer shuffled), "share" of all weights shuffled so far, and "correlation",
        Spearman's, with the trained model's maps, the mean over the X-rays.
    """
    x = np.asarray(INPUT_SCALE.normalise(pixels[..., None].astype(np.float32)), np.float32)
    trained = _maps(model, x)
    layers = [layer for layer in reversed(model.layers) if layer.get_weights() and "message" not in layer.name]
    total = sum(layer.count_params() for layer in layers)
    ends = np.unique(np.linspace(1, len(layers), _STAGES).round().astype(int))
    draw = np.random.default_rng(seed)
    rows: list[Json] = []
    begun = shuffled = 0
    for end in ends:
        for layer in layers[begun:end]:
            # Shuffled, not drawn: each layer keeps the sizes of its weights, so that nothing overflows.
            layer.set_weights([draw.permutation(w.ravel()).reshape(w.shape) for w in layer.get_weights()])
            shuffled += layer.count_params()
        begun = int(end)
        alike = [rank_correlation(one, other) for one, other in zip(trained, _maps(model, x), strict=True)]
        rows.append({"from": layers[end - 1].name, "share": shuffled / total, "correlation": float(np.mean(alike))})
    return rows


def rank_correlation(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Spearman's correlation of two arrays of one shape, ties by their mean rank; 0 where one of them is constant."""
    first, second = _ranks(one.ravel()), _ranks(other.ravel())
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse], np.float64)


def _maps(model: Any, x: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    features = two_outputs(model)(x, training=False)[1].numpy()
    weights = model.get_layer(HEAD_LAYER).get_weights()[0][:, 0]
    return [grad_cam_plus_plus(maps, weights) for maps in features]
