"""What would stop a long training hours later, found before it starts: memory, disk, missing initial weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from firmware_bridge.errors import ConfigError, ResourceError
from firmware_bridge.shipped import PREFIX
from toolkit.backbones.kinds import DENSENET121, EFFICIENTNET_B0, EFFICIENTNET_LITE0, HYBRID
from toolkit.imagenet_lite0 import weights_file
from toolkit.memory import available_bytes
from toolkit.shipped_weights import graph_of, shipped_weights, shipped_weights_names

# Checkpoints of B0 with Adam's moments (48 MB) in three phases, model files, cache and report.
_RUN_BYTES = 600_000_000
# TensorFlow at rest, and per X-ray of a batch at 224 px, as seen in training B0.
_TENSORFLOW_BYTES = 1_200_000_000
_STEP_BYTES_PER_PIXEL = 2_000
_IMAGENET = (EFFICIENTNET_B0.name, EFFICIENTNET_LITE0.name, DENSENET121.name, HYBRID.name)


def check_resources(folder: Path, *, images: int, size_px: int, batch_size: int) -> None:
    """Fail now rather than in hours.

    Args:
        folder: where the run goes; need not exist.
        images: X-rays in the index.
        size_px: side of the network's input.
        batch_size: X-rays per step.

    Raises:
        ResourceError: the disk or the memory will not do.
    """
    pixels_bytes = images * size_px * size_px
    place = next(p for p in (folder, *folder.resolve().parents) if p.exists())
    _require("disk space for the run", _RUN_BYTES + pixels_bytes, shutil.disk_usage(place).free, "free some space")
    available = available_bytes()
    if available is not None:
        needed = _TENSORFLOW_BYTES + 2 * pixels_bytes + batch_size * size_px * size_px * _STEP_BYTES_PER_PIXEL
        _require("memory for training", needed, available, "lower --batch-size or --size-px, or end other programs")


def check_weights(weights: str, *, backbone: str) -> None:
    """Find out whether `weights` ("none", "imagenet" or a file) can be had for `backbone`, as far as that is cheap.

    Raises:
        ConfigError: no such file, or none for this backbone.
        MissingExtraError: the package with Lite0's ImageNet weights is not installed.
    """
    if weights == "imagenet" and backbone not in _IMAGENET:
        raise ConfigError(
            f"there are no ImageNet weights for {backbone}",
            expected="backbone " + " or ".join(_IMAGENET),
            came=backbone,
            do="use --weights none, or a weights file of an earlier run",
        )
    if weights == "imagenet" and backbone == EFFICIENTNET_LITE0.name:
        weights_file()
    shipped = shipped_weights(weights)
    if shipped is not None and graph_of(shipped) != backbone:
        raise ConfigError(
            f"{weights} belongs to another backbone",
            expected=f"--backbone {graph_of(shipped)}",
            came=backbone,
            do=f"add --backbone {graph_of(shipped)}, or start from --weights none",
        )
    if weights in ("none", "imagenet") or shipped is not None:
        return
    if not Path(weights).expanduser().is_file():
        raise ConfigError(
            f"the weights file {weights} is not there",
            expected="none, imagenet, the final.weights.h5 of an earlier run, or "
            + ", ".join(PREFIX + name for name in shipped_weights_names()),
            came="no such file",
            do="mend --weights",
        )


def _require(what: str, needed: int, there: int, do: str) -> None:
    if there < needed:
        raise ResourceError(
            f"there is not enough {what}",
            expected=f"about {needed / 1e9:.1f} GB",
            came=f"{there / 1e9:.1f} GB free",
            do=do,
        )
