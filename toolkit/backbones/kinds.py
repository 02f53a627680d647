"""Which backbones there are, without TensorFlow, so that a wrong name is found before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from firmware_bridge.errors import ConfigError

# (kernel, repeats, channels out, expansion, stride), Tan & Le 2019, table 1, stages 2 to 8.
_BLOCKS = (
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 2),
    (5, 2, 40, 6, 2),
    (3, 3, 80, 6, 2),
    (5, 3, 112, 6, 1),
    (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
)


@dataclass(frozen=True, slots=True)
class EfficientNet:
    """What tells one EfficientNet from another.

    Attributes:
        name: as users write it in a config.
        activation: "swish" or "relu6".
        squeeze_excite: whether each block reweights its channels.
        blocks: the stages: (kernel, repeats, channels out, expansion, stride).
        stem_channels: out of the first convolution, which halves the picture.
        feature_channels: of the feature maps.
    """

    name: str
    activation: str
    squeeze_excite: bool
    blocks: tuple[tuple[int, int, int, int, int], ...] = _BLOCKS
    stem_channels: int = 32
    feature_channels: int = 1280


@dataclass(frozen=True, slots=True)
class DenseNet:
    """What tells one DenseNet from another.

    Attributes:
        name: as users write it in a config.
        blocks: layers in each dense block.
        growth: channels that each layer adds.
        stem_channels: out of the first convolution.
    """

    name: str
    blocks: tuple[int, ...]
    growth: int = 32
    stem_channels: int = 64


@dataclass(frozen=True, slots=True)
class Hybrid:
    """Two backbones side by side on the same input, their feature maps stacked.

    Attributes:
        name: as users write it in a config.
        parts: both of them with the same size of feature map.
    """

    name: str
    parts: tuple[EfficientNet, DenseNet]


Backbone = EfficientNet | DenseNet | Hybrid

EFFICIENTNET_B0 = EfficientNet(name="efficientnet-b0", activation="swish", squeeze_excite=True)
# Lite0 drops what is costly in integers: sigmoid gates, and swish for ReLU6.
EFFICIENTNET_LITE0 = EfficientNet(name="efficientnet-lite0", activation="relu6", squeeze_excite=False)
DENSENET121 = DenseNet(name="densenet121", blocks=(6, 12, 24, 16))
HYBRID = Hybrid(name="hybrid", parts=(EFFICIENTNET_B0, DENSENET121))
BACKBONES: dict[str, Backbone] = {
    kind.name: kind for kind in (EFFICIENTNET_B0, EFFICIENTNET_LITE0, DENSENET121, HYBRID)
}
ATTENTIONS = ("none", "cbam", "self")


def require_backbone(name: str, *, size_px: int) -> Backbone:
    """The backbone called `name`.

    Raises:
        ConfigError: there is none, or an input of `size_px` does not fit it.
    """
    kind = BACKBONES.get(name)
    if kind is None:
        raise ConfigError(
            f"unknown backbone '{name}'",
            expected=" or ".join(BACKBONES),
            came=name,
            do="set backbone in the config or with --backbone",
        )
    if size_px % 32 or size_px < 32:
        raise ConfigError(
            "the input size does not fit the backbone",
            expected="a multiple of 32, at least 32",
            came=str(size_px),
            do="set size_px to 224, 192 or 128",
        )
    return kind
