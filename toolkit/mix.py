"""Mixup (Zhang 2018) and CutMix (Yun 2019): pairs of a batch mixed, and their labels with them.

They work on what the network is about to see, after the device's preprocessing: a mixture of two pictures is not a
picture that a decoder could give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Mixing:
    """How often batches are mixed, and how strongly.

    Attributes:
        mixup: share of batches, 0 to 1; with `cutmix` at most 1.
        mixup_alpha: above 0; small keeps one picture dominant.
        cutmix: share of batches, 0 to 1.
        cutmix_alpha: above 0.
    """

    mixup: float = 0.0
    mixup_alpha: float = 0.4
    cutmix: float = 0.0
    cutmix_alpha: float = 1.0

    def apply(self, x: Floats, y: Floats, weights: Floats, *, seed: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
        """The batch, mixed or as it is.

        Args:
            x: (B, S, S, 1) float32.
            y: (B, 1) float32, 0 to 1.
            weights: (B,) float32, above 0.
            seed: decides everything.
        """
        if not self.mixup and not self.cutmix:
            return x, y, weights
        draw = np.random.default_rng(seed)
        chance = draw.random()
        if chance < self.mixup:
            return mixup(x, y, weights, alpha=self.mixup_alpha, draw=draw)
        if chance < self.mixup + self.cutmix:
            return cutmix(x, y, weights, alpha=self.cutmix_alpha, draw=draw)
        return x, y, weights


def mixup(
    x: Floats, y: Floats, weights: Floats, *, alpha: float, draw: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Each X-ray mixed with a partner, share · x + (1 - share) · partner; a share from Beta(alpha, alpha) for each."""
    partner = draw.permutation(len(x))
    share = draw.beta(alpha, alpha, len(x)).astype(np.float32)  # (B,)
    wide = share[:, None, None, None]
    return _pairwise(x, partner, wide), *_labels(y, weights, partner, share)


def cutmix(
    x: Floats, y: Floats, weights: Floats, *, alpha: float, draw: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """A box of the partner pasted into each X-ray; its own share in the label is the area that is left of it."""
    partner = draw.permutation(len(x))
    height, width = x.shape[1:3]
    out = x.copy()
    left = np.empty(len(x), np.float32)  # share of its own picture that each keeps
    for row, other in enumerate(partner):
        side = np.sqrt(1.0 - draw.beta(alpha, alpha))
        centre_y, centre_x = draw.integers(height), draw.integers(width)
        top, bottom = np.clip([centre_y - side * height / 2, centre_y + side * height / 2], 0, height).astype(int)
        near, far = np.clip([centre_x - side * width / 2, centre_x + side * width / 2], 0, width).astype(int)
        out[row, top:bottom, near:far] = x[other, top:bottom, near:far]
        left[row] = 1.0 - (bottom - top) * (far - near) / (height * width)
    return out, *_labels(y, weights, partner, left)


def _labels(y: Floats, weights: Floats, partner: npt.NDArray[np.int64], share: Floats) -> tuple[Floats, Floats]:
    """Labels (B, K) and weights (B,) of the mixture, whose loss is that of both pictures, each with its own weight.

    Cross-entropy is linear in the label: w · CE(y) = share · w_a · CE(y_a) + (1 - share) · w_b · CE(y_b) where w mixes
    the weights, and w · y the weighted labels. With y mixed by the share alone the commoner class had more than half.
    """
    mixed = _pairwise(weights, partner, share)
    weighted = _pairwise(weights[:, None] * y, partner, share[:, None])
    return weighted / mixed[:, None], mixed


def _pairwise(values: Floats, partner: npt.NDArray[np.int64], share: Floats) -> Floats:
    return np.asarray(share * values + (1.0 - share) * values[partner], np.float32)
