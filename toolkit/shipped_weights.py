"""The weights that come with the package, for training to start from: `--weights cxr-edge/NAME`.

They are the floating-point weights before pruning of the run behind the bundle of that name. Kernels are stored in half
precision, which costs nothing that training would notice; what normalises (few numbers, wide range) in single.
"""

from __future__ import annotations

import io
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from firmware_bridge.errors import ModelError
from firmware_bridge.shipped import PREFIX
from toolkit.files import write_atomically

_SUFFIX = ".weights.npz"
_MODEL = "model"  # the graph's name: B0's layers have the names and shapes of Lite0's, and mean something else


def shipped_weights_names() -> list[str]:
    """What may stand after `cxr-edge/`, sorted."""
    folder = Path(str(resources.files("toolkit"))) / "assets"
    return sorted(path.name.removesuffix(_SUFFIX) for path in folder.glob("*" + _SUFFIX))


def shipped_weights(weights: str) -> Path | None:
    """The file that `cxr-edge/NAME` stands for; None where `weights` says something else, or no such file ships."""
    name = weights.removeprefix(PREFIX)
    if name == weights or name not in shipped_weights_names():
        return None
    return Path(str(resources.files("toolkit"))) / "assets" / (name + _SUFFIX)


def graph_of(path: Path) -> str:
    """The backbone that the weights in `path` belong to, as a configuration spells it."""
    with np.load(path, allow_pickle=False) as stored:
        return str(stored[_MODEL]).replace("_", "-")


def save_half(model: Any, path: Path) -> None:
    """Write the weights of `model` under its layers' names: kernels float16, everything with one axis float32.

    Raises:
        ResourceError: the file cannot be written.
    """
    arrays: dict[str, Any] = {_MODEL: np.array(model.name)}
    for layer in model.layers:
        for i, value in enumerate(layer.get_weights()):
            arrays[f"{layer.name}:{i}"] = value.astype(np.float16 if value.ndim > 1 else np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def load_half(model: Any, path: Path) -> None:
    """Put the weights that `save_half` wrote into `model`, in place; layers without weights in the file stay.

    Raises:
        ModelError: the file is damaged, or belongs to another graph.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        graph = str(arrays.pop(_MODEL))
        if graph != model.name:
            raise ValueError(f"weights of {graph}")
        by_layer: dict[str, list[Any]] = {}
        for name in sorted(arrays, key=lambda name: (name.rpartition(":")[0], int(name.rpartition(":")[2]))):
            by_layer.setdefault(name.rpartition(":")[0], []).append(arrays[name].astype(np.float32))
        for layer, values in by_layer.items():
            model.get_layer(layer).set_weights(values)
    # Damaged archives make NumPy and zipfile raise nearly anything.
    except Exception as error:
        raise ModelError(
            f"the weights in {path.name} do not fit {model.name}",
            expected="weights of the same backbone, with the same options",
            came=str(error).splitlines()[0] if str(error) else type(error).__name__,
            do="choose the backbone that those weights belong to (docs/models.md), or --weights none",
        ) from error
