"""Which variants become one int8 graph: what is refused is refused for a reason that holds; the rest converts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firmware_bridge.errors import ConfigError, ModelError
from toolkit.backbones.kinds import BACKBONES, DenseNet, EfficientNet
from toolkit.cli.main import run as cxr_edge
from toolkit.config import TrainConfig
from toolkit.deployable import require_deployable, why_not_deployable
from toolkit.export import to_int8
from toolkit.input_scale import INPUT_SCALE
from toolkit.inspect_tflite import FileFacts, inspect_tflite
from toolkit.model import Architecture, build_classifier
from toolkit.qat import quantize_aware

TINY = EfficientNet("tiny", "relu6", False, blocks=((3, 1, 8, 1, 2),), stem_channels=8, feature_channels=32)
DENSE = DenseNet("tiny-dense", blocks=(1, 1, 1, 1), growth=4, stem_channels=8)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (TINY, DENSE):
        monkeypatch.setitem(BACKBONES, kind.name, kind)


def _quantized(backbone: str, attention: str) -> Any:
    arch = Architecture(backbone=backbone, size_px=32, attention=attention)
    return quantize_aware(build_classifier(arch, trainable_drop=False), input_scale=INPUT_SCALE)


def _file(attention: str) -> FileFacts:
    quantized = _quantized("tiny", attention)
    for _ in range(2):  # so that the quantizers have seen ranges
        quantized(np.random.default_rng(0).normal(size=(4, 32, 32, 1)).astype(np.float32), training=True)
    return inspect_tflite(to_int8(quantized, scale=INPUT_SCALE, size_px=32))


def test_cbam_is_one_int8_graph() -> None:
    facts = _file("cbam")
    assert (facts.float_operators, facts.partitions) == (0, 1)
    assert not why_not_deployable(TrainConfig(attention="cbam"))


def test_self_attention_leaves_the_delegate() -> None:
    assert _file("self").partitions > 1
    assert "partitions" in why_not_deployable(TrainConfig(attention="self"))


def test_dense_blocks_cannot_be_quantized() -> None:
    with pytest.raises(ModelError, match="cannot be quantized"):
        _quantized("tiny-dense", "none")
    for backbone in ("densenet121", "hybrid"):
        with pytest.raises(ConfigError, match="refused for deployment"):
            require_deployable(TrainConfig(backbone=backbone))


def test_the_command_refuses_before_it_trains(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train-qat", str(samples / "index.csv"), "--out", str(tmp_path), "--attention", "self"]
    assert cxr_edge(arguments) == 2
    assert "cxr-edge train and let it teach" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
