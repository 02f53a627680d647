"""The lung network outside TFLite: the same int8 file, whose outputs another runtime gives as bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.lungs import LungFinder

# Of the outputs of toolkit/assets/lungs.int8.tflite, which no other form of the file tells: (value - zero) * scale.
# A test holds them to the file.
MASK_SCALE, MASK_ZERO = 1 / 256, 0
KIND_SCALE, KIND_ZERO = 0.07573221623897552, 116


class PeerLungs(LungFinder):
    """`LungFinder` around another runtime.

    Args:
        file: what it loaded.
        run: (1, 128, 128, 1) uint8 to both outputs, uint8, in any order.
    """

    def __init__(self, file: Path, run: Callable[[NDArray[np.uint8]], Any]) -> None:
        self.sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        self._run = run

    def infer(self, small: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `LungFinder.infer`."""
        by_rank = {len(one.shape): np.asarray(one) for one in self._run(small[None, :, :, None])}
        mask = (by_rank[4][0, :, :, 0].astype(np.float32) - MASK_ZERO) * np.float32(MASK_SCALE)
        kinds = (by_rank[2][0].astype(np.float32) - KIND_ZERO) * np.float32(KIND_SCALE)
        return mask, kinds
