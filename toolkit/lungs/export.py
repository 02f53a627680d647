"""The lung network as the int8 file that bundles carry, and what the file does on X-rays with masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_bridge.lungs import KINDS, MASK_PX, LungFinder
from toolkit.export import convert, grey_bytes_in
from toolkit.input_scale import INPUT_SCALE
from toolkit.tf import tf

Grey = npt.NDArray[np.uint8]


def lungs_to_int8(model: Any, representative: Grey) -> bytes:
    """The int8 file: grey bytes in, mask and kind out, every operator int8.

    Post-training quantization is enough here: a mask is cut at one half, far from where rounding is felt.

    Args:
        model: from `build_lung_network`, trained.
        representative: (N, 128, 128) uint8, whose activations set the ranges.

    Raises:
        ModelError: the converter refuses.
    """

    @tf.function(input_signature=[tf.TensorSpec((1, MASK_PX, MASK_PX, 1), tf.float32, name="grey")])  # type: ignore[untyped-decorator]
    def serve(grey: Any) -> dict[str, Any]:
        mask, kind = model(grey, training=False)
        return {"mask": mask, "kind": kind}

    def samples() -> Iterator[list[npt.NDArray[np.float32]]]:
        # Black and white first, so that the input's range is that of grey bytes and they go in as they are.
        for level in (0.0, 255.0):
            yield [np.full((1, MASK_PX, MASK_PX, 1), INPUT_SCALE.normalise(level), np.float32)]
        for pixels in representative:
            yield [np.asarray(INPUT_SCALE.normalise(pixels[None, :, :, None].astype(np.float32)), np.float32)]

    holder = tf.Module()
    holder.values = list(model.variables)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], holder)
    converter.representative_dataset = samples
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    grey_bytes_in(converter)
    return convert(converter)


@dataclass(frozen=True, slots=True)
class MaskFigures:
    """How well masks fit those that people drew; mean over X-rays.

    Attributes:
        images: how many.
        dice: 2 |A and B| / (|A| + |B|).
        iou: |A and B| / |A or B|.
        dice_worst_5_percent: the 5th percentile over X-rays.
        implausible: share of X-rays in which no plausible lungs were found.
    """

    images: int
    dice: float
    iou: float
    dice_worst_5_percent: float
    implausible: float

    def to_json(self) -> dict[str, float]:
        """As a JSON object."""
        return asdict(self)


def mask_figures(content: bytes, pixels: Grey, masks: Grey) -> MaskFigures:
    """What the int8 file itself finds.

    Args:
        content: the `.tflite` file.
        pixels: (N, S, S) uint8.
        masks: (N, 128, 128) uint8, 255 inside the lungs.
    """
    finder = LungFinder(content, threads=2)
    dice: list[float] = []
    iou: list[float] = []
    implausible = 0
    for grey, drawn in zip(pixels, masks, strict=True):
        lungs = finder.find(grey)
        found, true = lungs.mask > 0, drawn > 127
        both, either = int(np.count_nonzero(found & true)), int(np.count_nonzero(found | true))
        dice.append(2 * both / max(1, both + either))
        iou.append(both / max(1, either))
        implausible += lungs.box is None
    return MaskFigures(
        images=len(dice),
        dice=float(np.mean(dice)),
        iou=float(np.mean(iou)),
        dice_worst_5_percent=float(np.percentile(dice, 5)),
        implausible=implausible / len(dice),
    )


def kind_table(content: bytes, pixels: Grey, kinds: npt.NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """How pictures of each true kind are called, as shares: {true: {called: share}}."""
    finder = LungFinder(content, threads=2)
    called = np.array([KINDS.index(finder.find(grey).kind) for grey in pixels])
    return {
        name: {other: float(np.mean(called[kinds == k] == c)) for c, other in enumerate(KINDS)}
        for k, name in enumerate(KINDS)
        if np.any(kinds == k)
    }
