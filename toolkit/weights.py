"""Initial weights: of an earlier run, or ImageNet's (B0 from `keras.applications`), folded to one grey channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_bridge.errors import ConfigError, ModelError
from toolkit.backbones.kinds import EFFICIENTNET_LITE0
from toolkit.imagenet_lite0 import load_imagenet_lite0
from toolkit.input_scale import InputScale
from toolkit.preflight import check_weights
from toolkit.tf import keras, tf

_PLACE = "~/.keras/models/efficientnetb0_notop.h5"


def load_initial_weights(model: Any, weights: str, *, backbone: str, input_scale: InputScale) -> None:
    """Put the initial weights into `model`, in place.

    Args:
        model: from `toolkit.model.build_classifier`.
        weights: "none", "imagenet", or the path of a weights file.
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
        fold_reference(_imagenet_reference(), model, input_scale=input_scale)
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


def _imagenet_reference() -> Any:
    try:
        return keras.applications.EfficientNetB0(weights="imagenet", include_top=False)
    except Exception as error:  # Keras raises a bare Exception when a download fails.
        raise ConfigError(
            "ImageNet's weights are not here and could not be downloaded",
            expected=f"{_PLACE}, or a network to fetch it with",
            came=str(error).splitlines()[0],
            do=f"on a machine with a network run keras.applications.EfficientNetB0(include_top=False) and copy {_PLACE}"
            " from there to the same place here; or use --weights none",
        ) from error


def fold_reference(reference: Any, model: Any, *, input_scale: InputScale) -> None:
    """Map the weights of `keras.applications.EfficientNetB0` into `model`, layer by layer, in place.

    The reference sees (grey/255 - mean_c) / deviation_c in three channels; ours sees (grey - zero) · scale in one. The
    three stem kernels fold into one, and what is constant goes into the batch normalisation behind them. Inside
    the picture this is exact. At its border it is exact when the reference's zero padding stands for the same grey
    level as ours (mean_c · 255 = `input_scale.zero_grey`); ImageNet's means differ from it by at most 10 grey levels.

    Raises:
        ModelError: a layer of the reference is missing in `model` or has another shape.
    """
    slope, offset = _reference_input(reference)  # grey → slope_c · grey + offset_c, per channel
    kernel = reference.get_layer("stem_conv").get_weights()[0]  # (3, 3, 3, 32) float32
    folded = np.einsum("hwco,c->hwo", kernel, slope)[:, :, None, :] / input_scale.scale  # (3, 3, 1, 32)
    constant = np.einsum("hwco,c->o", kernel, slope * input_scale.zero_grey + offset)  # (32,)
    model.get_layer("stem_conv").set_weights([folded.astype(np.float32)])
    gamma, beta, mean, variance = reference.get_layer("stem_bn").get_weights()
    # BN subtracts the moving mean: what the folded kernel no longer adds is taken from it.
    model.get_layer("stem_bn").set_weights([gamma, beta, (mean - constant).astype(np.float32), variance])
    ours = {layer.name: layer for layer in model.layers}
    for layer in reference.layers:
        values = layer.get_weights()
        if not values or layer.name in ("stem_conv", "stem_bn") or layer.name.startswith(_NO_COUNTERPART):
            continue
        target = ours.get(layer.name)
        if target is None or [w.shape for w in target.get_weights()] != [w.shape for w in values]:
            raise ModelError(
                f"the layer {layer.name} does not map",
                expected="a layer of the same name and shapes in our graph",
                came="none" if target is None else str([w.shape for w in target.get_weights()]),
                do="use the tf_keras version that constraints.txt names",
            )
        target.set_weights(values)


# Input normalisation is folded, and the ImageNet head is not taken over. (`rescaling` has no weights.)
_NO_COUNTERPART = ("normalization", "predictions")


def _reference_input(reference: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Slope and offset (3,) float64 of what the reference does to grey levels 0 to 255 before its stem."""
    slope = np.ones(3)
    offset = np.zeros(3)
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
