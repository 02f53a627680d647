"""Ranges that quantization-aware training starts from."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from toolkit.input_scale import INPUT_SCALE
from toolkit.model import Architecture, build_classifier
from toolkit.prune import seed_everything
from toolkit.qat import calibrate_ranges, float_head, quantize_aware
from toolkit.weights import load_initial_weights


def test_calibrated_ranges_make_the_quantized_graph_answer_as_the_plain_one() -> None:
    arch = Architecture(backbone="efficientnet-lite0", size_px=128)
    plain = build_classifier(arch, trainable_drop=False)
    load_initial_weights(plain, "cxr-edge/kermany", backbone=arch.backbone, input_scale=INPUT_SCALE)
    paths = sorted((Path(__file__).parents[2] / "samples").rglob("*.jpg"))[::4]
    greys = [cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (128, 128)) for path in paths]
    x = np.asarray(INPUT_SCALE.normalise(np.stack(greys)[..., None].astype(np.float32)), np.float32)
    quantized = quantize_aware(plain, input_scale=INPUT_SCALE)
    wanted, before = plain.predict_on_batch(x), quantized.predict_on_batch(x)
    calibrate_ranges(quantized, plain, [x[::2], x[1::2]])
    after = quantized.predict_on_batch(x)
    assert np.abs(after - wanted).mean() < 0.1 < np.abs(before - wanted).mean()
    kernel, _ = float_head(quantized, "logit")
    np.testing.assert_array_equal(kernel, plain.get_layer("logit").get_weights()[0])  # only ranges moved


def test_a_range_holds_zero_and_is_what_the_layer_gives() -> None:
    seed_everything(4)
    plain = build_classifier(Architecture(backbone="efficientnet-lite0", size_px=32), trainable_drop=False)
    x = np.zeros((4, 32, 32, 1), np.float32)
    quantized = quantize_aware(plain, input_scale=INPUT_SCALE)
    calibrate_ranges(quantized, plain, [x])
    by_name = {v.name: float(np.min(v)) for v in quantized.variables if "_m" in v.name and "/output_" in v.name}
    assert len(by_name) > 50
    assert all(value <= 0.0 for name, value in by_name.items() if name.endswith("_min:0"))
    assert all(value >= 0.0 for name, value in by_name.items() if name.endswith("_max:0"))
