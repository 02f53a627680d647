"""The two networks, and our own files of them.

`lite0` is the network that ships (EfficientNet-Lite0, 128 px, lungs first): its float files are made from the
floating-point weights that ship, before pruning; the int8 file is the one in the bundle. `b0` (EfficientNet-B0, 224 px,
whole X-ray) has random weights, because no trained ones ship; time does not hang on them, and it gets no AUROC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import B0, LITE0
from firmware_bridge.bundle import open_bundle
from firmware_bridge.lungs import LungFinder
from firmware_bridge.preprocess import Preprocessing
from firmware_bridge.score import Head
from firmware_bridge.shipped import DEFAULT, shipped_bundle
from toolkit.files import write_atomically
from toolkit.lungs.asset import FILE as LUNGS_FILE
from toolkit.shipped_weights import load_half, shipped_weights

SEED = 7
Grey = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Network:
    """One network.

    Attributes:
        name: as its files begin.
        backbone: a key of the toolkit's backbones.
        preprocessing: what its X-rays go through.
        weights: as `train-qat --weights` takes them; empty for random ones.
    """

    name: str
    backbone: str
    preprocessing: Preprocessing
    weights: str = ""


def networks() -> Mapping[str, Network]:
    """Both, by name."""
    with open_bundle(shipped_bundle()) as bundle:
        shipped = Preprocessing.from_manifest(dict(bundle.manifest.preprocessing))
    return {
        B0: Network(B0, "efficientnet-b0", Preprocessing.default(224)),
        LITE0: Network(LITE0, "efficientnet-lite0", shipped, weights=f"cxr-edge/{DEFAULT}"),
    }


def lung_finder() -> LungFinder:
    """The lung network of the shipped bundle."""
    with open_bundle(shipped_bundle()) as bundle:
        assert bundle.manifest.lungs is not None
        return LungFinder(bundle.read(bundle.manifest.lungs.file))


def our_files(network: Network, folder: Path, representative: Grey) -> None:
    """Write the TFLite files in float, FP16 and int8, and the head of each, into `folder`.

    Args:
        network: which.
        folder: where to.
        representative: (N, S, S) uint8, preprocessed X-rays; their ranges quantize what has random weights.

    Raises:
        MissingExtraError: TensorFlow is not installed.
        ModelError: a file cannot be made.
    """
    from toolkit.export import to_float, to_int8_post_training
    from toolkit.input_scale import INPUT_SCALE
    from toolkit.model import HEAD_LAYER, Architecture, build_classifier
    from toolkit.tf import keras

    size_px = network.preprocessing.size_px
    keras.utils.set_random_seed(SEED)
    model = build_classifier(Architecture(network.backbone, size_px), trainable_drop=False)
    weights = shipped_weights(network.weights)
    if weights is None:
        _randomise(model)
    else:
        load_half(model, weights)
    kernel, bias = model.get_layer(HEAD_LAYER).get_weights()
    head = Head(np.asarray(kernel[:, 0], np.float32), float(bias[0])).to_bytes()
    for precision, half in (("float", False), ("fp16", True)):
        content = to_float(model, scale=INPUT_SCALE, size_px=size_px, half=half)
        _write(folder, network, precision, content, head)
    if weights is None:
        content = to_int8_post_training(model, representative, scale=INPUT_SCALE, size_px=size_px)
        _write(folder, network, "int8", content, head)
        return
    with open_bundle(shipped_bundle()) as bundle:
        entry = bundle.manifest.model("int8")
        _write(folder, network, "int8", bundle.read(entry.file), bundle.read(entry.head))
        assert bundle.manifest.lungs is not None
        write_atomically(folder / LUNGS_FILE, bundle.read(bundle.manifest.lungs.file))


def _write(folder: Path, network: Network, precision: str, content: bytes, head: bytes) -> None:
    write_atomically(folder / f"{network.name}.{precision}.tflite", content)
    write_atomically(folder / f"{network.name}.{precision}.npy", head)


def _randomise(model: Any) -> None:
    """Give biases and normalisation values of their own, as training would.

    Left at 0 and 1, equal constants are stored once in ONNX, and ONNX Runtime's quantizer then mixes them up.
    """
    rng = np.random.default_rng(SEED)
    for layer in model.layers:
        values = layer.get_weights()
        if values:
            layer.set_weights(
                [v if v.ndim > 1 else np.abs(v + rng.normal(0, 0.1, v.shape)).astype(np.float32) for v in values]
            )
