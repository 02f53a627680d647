"""Initial weights: of an earlier run, or ImageNet's (mostly `keras.applications`'), folded to one grey channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_bridge.errors import ConfigError, ModelError
from toolkit.backbones.kinds import BACKBONES, DENSENET121, EFFICIENTNET_B0, EFFICIENTNET_LITE0, Hybrid
from toolkit.imagenet_lite0 import load_imagenet_lite0
from toolkit.input_scale import InputScale
from toolkit.preflight import check_weights
from toolkit.shipped_weights import load_half, shipped_weights
from toolkit.tf import keras, tf

# Backbone to the class in keras.applications and the file that it downloads.
_REFERENCES = {
    EFFICIENTNET_B0.name: ("EfficientNetB0", "efficientnetb0_notop.h5"),
    DENSENET121.name: ("DenseNet121", "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5"),
}


def load_initial_weights(model: Any, weights: str, *, backbone: str, input_scale: InputScale) -> None:
    """Put the initial weights into `model`, in place.

    Args:
        model: from `toolkit.model.build_classifier`.
        weights: "none", "imagenet", "cxr-edge/NAME" (what comes with the package), or the path of a weights file.
        backbone: name of the backbone of `model`.
        input_scale: of `model`.

    Raises:
        ConfigError: no such file, no network for the download, or no ImageNet weights for this backbone.
        MissingExtraError: the package with Lite0's ImageNet weights is not installed.
        ModelError: the file's layers do not fit.
    """
    if weights == "none":
        return
    check_weights(weights, backbone=backbone)
    if weights == "imagenet" and backbone == EFFICIENTNET_LITE0.name:
        load_imagenet_lite0(model, input_scale=input_scale)
        return
    if weights == "imagenet":
        kind = BACKBONES[backbone]
        for part in kind.parts if isinstance(kind, Hybrid) else (kind,):
            fold_reference(_imagenet_reference(part.name), model, input_scale=input_scale)
        return
    shipped = shipped_weights(weights)
    if shipped is not None:
        load_half(model, shipped)
        return
    load_weights(model, Path(weights).expanduser())


def load_weights(model: Any, path: Path) -> None:
    """Put the weights that a run saved into `model`, in place.

    Raises:
        ModelError: the file is damaged, or belongs to another graph.
    """
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError, tf.errors.OpError) as error:
        raise ModelError(
            f"the weights in {path} do not fit {model.name}",
            expected="weights saved by a run with the same backbone",
            came=str(error).splitlines()[0],
            do="choose the backbone those weights were trained with, or remove the file to train them again",
        ) from error


def _imagenet_reference(backbone: str) -> Any:
    network, file = _REFERENCES[backbone]
    place = f"~/.keras/models/{file}"
    try:
        return getattr(keras.applications, network)(weights="imagenet", include_top=False)
    except Exception as error:  # Keras raises a bare Exception when a download fails.
        raise ConfigError(
            "ImageNet's weights are not here and could not be downloaded",
            expected=f"{place}, or a network to fetch it with",
            came=str(error).splitlines()[0],
            do=f"on a machine with a network run keras.applications.{network}(include_top=False) and copy {place}"
            " from there to the same place here; or use --weights none",
        ) from error


def fold_reference(reference: Any, model: Any, *, input_scale: InputScale) -> None:
    """Map the weights of EfficientNetB0 or DenseNet121 of `keras.applications` into `model`, by layer, in place.

    The reference sees (grey/255 - mean_c) / deviation_c in three channels; ours sees (grey - zero) · scale in one. The
    three stem kernels fold into one, and what is constant goes into the batch normalisation behind them. Inside
    the picture this is exact. At its border it is exact when the reference's zero padding stands for the same grey
    level as ours (mean_c · 255 = `input_scale.zero_grey`); ImageNet's means differ from it by at most 10 grey levels.

    Raises:
        ModelError: a layer of the reference is missing in `model` or has another shape.
    """
    slope, offset = _reference_input(reference)  # grey → slope_c · grey + offset_c, per channel
    stem = next(names for names in _STEMS if names[0] in {layer.name for layer in reference.layers})
    ours = {layer.name: layer for layer in model.layers}
    if not set(stem) <= set(ours):
        raise _does_not_map(stem[0], None)
    kernel = reference.get_layer(stem[0]).get_weights()[0]  # (k, k, 3, C) float32
    folded = np.einsum("hwco,c->hwo", kernel, slope)[:, :, None, :] / input_scale.scale  # (k, k, 1, C)
    constant = np.einsum("hwco,c->o", kernel, slope * input_scale.zero_grey + offset)  # (C,)
    ours[stem[0]].set_weights([folded.astype(np.float32)])
    gamma, beta, mean, variance = reference.get_layer(stem[1]).get_weights()
    # BN subtracts the moving mean: what the folded kernel no longer adds is taken from it.
    ours[stem[1]].set_weights([gamma, beta, (mean - constant).astype(np.float32), variance])
    for layer in reference.layers:
        values = layer.get_weights()
        if not values or layer.name in stem or layer.name.startswith(_NO_COUNTERPART):
            continue
        target = ours.get(layer.name)
        if target is None or [w.shape for w in target.get_weights()] != [w.shape for w in values]:
            raise _does_not_map(layer.name, target)
        target.set_weights(values)


def _does_not_map(name: str, target: Any) -> ModelError:
    return ModelError(
        f"the layer {name} does not map",
        expected="a layer of the same name and shapes in our graph",
        came="none" if target is None else str([w.shape for w in target.get_weights()]),
        do="use the tf_keras version that constraints.txt names",
    )


# First convolution and its batch normalisation.
_STEMS = (("stem_conv", "stem_bn"), ("conv1/conv", "conv1/bn"))
# What `keras.applications` does to an X-ray before a network that brings no such layer ("torch" of imagenet_utils).
_TORCH_MEAN, _TORCH_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Input normalisation is folded, and the ImageNet head is not taken over. (`rescaling` has no weights.)
_NO_COUNTERPART = ("normalization", "predictions")


def _reference_input(reference: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Slope and offset (3,) float64 of what the reference does to grey levels 0 to 255 before its stem."""
    slope = np.ones(3)
    offset = np.zeros(3)
    if not any(layer.name.startswith(("rescaling", "normalization")) for layer in reference.layers):
        deviation = np.array(_TORCH_DEVIATION)
        return 1 / (255 * deviation), -np.array(_TORCH_MEAN) / deviation
    for layer in reference.layers:
        if layer.name.startswith("rescaling"):
            scale = np.asarray(layer.scale, np.float64)
            slope, offset = slope * scale, offset * scale + np.asarray(layer.offset, np.float64)
        elif layer.name.startswith("normalization"):
            mean = np.ravel(np.asarray(layer.mean, np.float64))
            deviation = np.sqrt(np.ravel(np.asarray(layer.variance, np.float64)))
            slope, offset = slope / deviation, (offset - mean) / deviation
        elif layer.name == "stem_conv":
            break
    return np.broadcast_to(slope, 3), np.broadcast_to(offset, 3)
