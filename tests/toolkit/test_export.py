"""What the written files take in."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from toolkit.backbones.kinds import BACKBONES, EfficientNet
from toolkit.export import to_int8_post_training
from toolkit.input_scale import INPUT_SCALE
from toolkit.model import Architecture, build_classifier
from toolkit.prune import seed_everything


def test_post_training_int8_takes_grey_bytes_even_where_the_representative_xrays_are_dull(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny = EfficientNet("tiny", "relu6", False, blocks=(), stem_channels=4, feature_channels=8)
    monkeypatch.setitem(BACKBONES, "tiny", tiny)
    seed_everything(1)
    model = build_classifier(Architecture(backbone="tiny", size_px=32), trainable_drop=False)
    dull = np.random.default_rng(0).integers(60, 180, (4, 32, 32), np.uint8)
    (given,) = Interpreter(
        model_content=to_int8_post_training(model, dull, scale=INPUT_SCALE, size_px=32)
    ).get_input_details()
    scale, zero_point = given["quantization"]
    assert zero_point == INPUT_SCALE.zero_grey
    assert scale == pytest.approx(INPUT_SCALE.scale, rel=1e-5)
