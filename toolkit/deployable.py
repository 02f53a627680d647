"""Which variants a device cannot run as one int8 graph, and why: known before hours of training, without TensorFlow.

They train in floating point (`cxr-edge train`) and serve as teachers (`cxr-edge distill`).
"""

from __future__ import annotations

from firmware_bridge.errors import ConfigError
from toolkit.backbones.kinds import BACKBONES, DenseNet, Hybrid
from toolkit.config import TrainConfig

_DENSE = "batch normalisation that follows no convolution, as in every dense block, has no quantized form"
_SELF = "in int8 its matrix products of two activations leave the delegate: three partitions instead of one"


def why_not_deployable(config: TrainConfig) -> str:
    """Why the variant that `config` asks for is not for a device; empty where it is."""
    if isinstance(BACKBONES[config.backbone], DenseNet | Hybrid):
        return f"{config.backbone}: {_DENSE}"
    return f"self-attention: {_SELF}" if config.attention == "self" else ""


def require_deployable(config: TrainConfig) -> None:
    """Refuse a variant that is not for a device.

    Raises:
        ConfigError: it is one, or several workers are to train it.
    """
    if config.distribute != "none":
        raise ConfigError(
            "pruning and quantization are for one process",
            expected='distribute = "none"',
            came=config.distribute,
            do="train with cxr-edge train on all workers, then cxr-edge train-qat --float-epochs 0 "
            "--weights RUN/float/final.weights.h5 on one",
        )
    reason = why_not_deployable(config)
    if reason:
        raise ConfigError(
            "this variant is refused for deployment",
            expected="a graph that is int8 throughout, in one delegate partition",
            came=reason,
            do="train it with cxr-edge train and let it teach one that can: cxr-edge distill --teacher RUN",
        )
