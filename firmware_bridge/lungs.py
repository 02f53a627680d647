"""Find the lungs in a decoded X-ray: a mask, a box in the picture's own pixels, and measures; or no plausible lungs.

The network (`cxr-edge train-lungs`) sees the whole picture squashed to 128 px. What it finds is judged by plain
geometry: two bodies of plausible size, side by side. No guess is turned into a crop: no plausible lungs is a result.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from firmware_bridge.box import Box
from firmware_bridge.errors import ModelError
from firmware_bridge.interpreter import delegate_partitions, load_tflite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Grey = NDArray[np.uint8]

__all__ = ["KINDS", "MASK_PX", "VERSION", "LungFinder", "LungMeasures", "Lungs"]

VERSION = 1  # of the file's form: input, outputs, order of `KINDS`
MASK_PX = 128  # side of the network's square input, and of the mask that `find` gives
# The order of the network's second output. Turned as np.rot90 turns: "turned left" is a quarter counter-clockwise.
KINDS = ("upright", "turned_left", "upside_down", "turned_right", "inverted", "cropped", "not_chest")

# Of the picture's area. The least is a lung of a chest that fills a third of the picture's sides.
_LEAST_LUNG, _LEAST_BOTH, _MOST_BOTH = 0.008, 0.03, 0.75
# The smaller lung beside the larger one: below this, it is a scrap and the lung itself was not found.
_LEAST_SYMMETRY = 0.12


@dataclass(frozen=True, slots=True)
class LungMeasures:
    """Where the two lungs lie and how they look; shares of the picture, or of the lungs' own area.

    Attributes:
        area_first: of the lung on the picture's left.
        area_second: of the other one.
        symmetry: smaller area over larger, 0 to 1.
        centre_x: of both together, 0 (left) to 1.
        centre_y: 0 (top) to 1.
        gap_x: distance of their centres to the side, as a share of the picture's width.
        shift_y: distance of their centres up or down, as a share of the picture's height.
        border: the part of the lungs' outline that lies on the picture's edge.
        solidity: area over that of the convex hull, of the less solid one.
        certainty: mean of the mask's probability inside the lungs.
        stray: area of what else the network took for lung, beside the lungs' own.
    """

    area_first: float
    area_second: float
    symmetry: float
    centre_x: float
    centre_y: float
    gap_x: float
    shift_y: float
    border: float
    solidity: float
    certainty: float
    stray: float


@dataclass(frozen=True, slots=True, eq=False)
class Lungs:
    """What was found in one picture.

    Attributes:
        mask: (128, 128) uint8, 255 inside the two lungs, over the whole picture whatever its aspect.
        box: around both lungs; None when there are no plausible lungs.
        measures: None when there are no plausible lungs.
        why_not: what is not plausible, in words; empty when there are lungs.
        kinds: (7,) float32, what the network takes the picture for, summing to 1, in the order of `KINDS`.
        small: (128, 128) uint8, the picture as the network saw it; None where `judged` was asked without one.
    """

    mask: Grey
    box: Box | None
    measures: LungMeasures | None
    why_not: str
    kinds: NDArray[np.float32]
    small: Grey | None = None

    @property
    def kind(self) -> str:
        """The likeliest of `KINDS`."""
        return KINDS[int(np.argmax(self.kinds))]


class LungFinder:
    """The lung network, loaded; safe to call from several threads (one runs at a time).

    Attributes:
        sha256: of the file: what is cached is cached for this very network.

    Args:
        model: the int8 file, or its bytes.
        threads: for its operators; it is so small that one is best.
        runtime: as in `open_interpreter`.

    Raises:
        ModelError: the file is no lung network of this version.
        MissingExtraError: no runtime is installed.
    """

    def __init__(self, model: Path | bytes, *, threads: int = 1, runtime: str = "auto") -> None:
        content = model.read_bytes() if isinstance(model, Path) else model
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._raw, self.runtime = load_tflite(model, threads=threads, runtime=runtime)
        self._lock = threading.Lock()
        self._input, self._mask, self._kind = _tensors(self._raw)
        self.partitions = delegate_partitions(self._raw)

    def find(self, pixels: Grey) -> Lungs:
        """The lungs of a decoded picture (H, W) uint8 of any size.

        Raises:
            ModelError: the runtime failed.
        """
        small = square(pixels)
        mask, kinds = self.run(small)
        return replace(judged(mask, kinds), small=small)

    def run(self, small: Grey) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The network alone: (128, 128) uint8 to the mask (128, 128) float32 in [0, 1] and kinds (7,) that sum to 1.

        Raises:
            ModelError: the runtime failed.
        """
        coarse, logits = self.infer(small)
        mask = np.asarray(cv2.resize(coarse, (MASK_PX, MASK_PX), interpolation=cv2.INTER_LINEAR), np.float32)
        raised = np.exp(logits - logits.max())
        return mask, np.asarray(raised / raised.sum(), np.float32)

    def infer(self, small: Grey) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What the file itself says of (128, 128) uint8: its mask (h, w) float32 in [0, 1], and logits of kinds (7,).

        Raises:
            ModelError: the runtime failed.
        """
        try:
            with self._lock:
                self._raw.tensor(self._input)()[0, :, :, 0] = small
                self._raw.invoke()
                return self._mask.read(self._raw)[0, :, :, 0], self._kind.read(self._raw)[0]
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                "the lung network failed while it ran",
                expected="an inference",
                came=" ".join(str(error).split())[:200],
                do="build the bundle again, or try another runtime",
            ) from error


@dataclass(frozen=True, slots=True)
class _Tensor:
    index: int
    scale: float
    zero_point: int

    def read(self, raw: Any) -> NDArray[np.float32]:
        values = raw.tensor(self.index)().astype(np.float32)
        return np.asarray((values - self.zero_point) * self.scale, np.float32)


def _tensors(raw: Any) -> tuple[int, _Tensor, _Tensor]:
    inputs, outputs = raw.get_input_details(), raw.get_output_details()
    shapes = {tuple(int(side) for side in details["shape"]): details for details in outputs}
    # The mask may be coarser than the input: `run` enlarges it.
    mask = next((d for s, d in shapes.items() if len(s) == 4 and s[1] == s[2] <= MASK_PX and s[3] == 1), None)
    kind = shapes.get((1, len(KINDS)))
    given = [tuple(int(side) for side in details["shape"]) for details in inputs]
    if mask is None or kind is None or given != [(1, MASK_PX, MASK_PX, 1)] or inputs[0]["dtype"] != np.uint8:
        raise ModelError(
            "this is not a lung network of this version",
            expected=f"grey bytes (1, {MASK_PX}, {MASK_PX}, 1) in; a square mask and {len(KINDS)} kinds out",
            came=f"inputs {given}, outputs {list(shapes)}",
            do="take the file that `cxr-edge train-lungs` writes",
        )
    found = []
    for details in (mask, kind):
        scale, zero_point = details["quantization"]
        found.append(_Tensor(int(details["index"]), float(scale) or 1.0, int(zero_point)))
    return int(inputs[0]["index"]), found[0], found[1]


def square(pixels: Grey) -> Grey:
    """A picture of any size as the network sees it: squashed to (128, 128), averaged where it shrinks."""
    height, width = pixels.shape
    shrinks = width * height > MASK_PX * MASK_PX
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (MASK_PX, MASK_PX), interpolation=how), np.uint8)


def judged(mask: NDArray[np.float32], kinds: NDArray[np.float32]) -> Lungs:
    """Two plausible lungs out of the network's mask (128, 128) in [0, 1], or the reason why there are none."""
    binary = np.asarray(mask >= 0.5, np.uint8)
    labels, areas = _bodies(binary)
    empty = np.zeros((MASK_PX, MASK_PX), np.uint8)
    if len(areas) < 2:
        return Lungs(empty, None, None, f"{len(areas)} bodies that could be a lung, not two", kinds)
    first, second = sorted(areas, key=lambda label: areas[label], reverse=True)[:2]
    inside = np.asarray((labels == first) | (labels == second), np.bool_)
    shown = np.where(inside, np.uint8(255), np.uint8(0))
    share = float(inside.mean())
    if areas[second] < _LEAST_SYMMETRY * areas[first]:
        return Lungs(shown, None, None, f"one lung has {areas[second] / areas[first]:.0%} of the other's area", kinds)
    if not _LEAST_BOTH <= share <= _MOST_BOTH:
        return Lungs(shown, None, None, f"the lungs cover {share:.1%} of the picture", kinds)
    measures = _measures(labels == first, labels == second, mask=mask, stray=int(binary.sum() - inside.sum()))
    if measures.gap_x < 0.5 * measures.shift_y:
        return Lungs(shown, None, None, "the lungs lie one above the other", kinds)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = Box(
        float(columns[0] / MASK_PX),
        float(rows[0] / MASK_PX),
        float((columns[-1] + 1) / MASK_PX),
        float((rows[-1] + 1) / MASK_PX),
    )
    return Lungs(shown, box, measures, "", kinds)


def _bodies(binary: Grey) -> tuple[NDArray[np.int32], dict[int, int]]:
    """Label image (128, 128) int32 and the area in pixels of each body that is large enough for a lung."""
    least = _LEAST_LUNG * MASK_PX * MASK_PX
    best: tuple[NDArray[np.int32], dict[int, int]] = (np.zeros_like(binary, np.int32), {})
    for bite in (0, 1, 2, 3, 4):
        # Lungs that touch are bitten apart, and what was bitten off is given back to the nearer one.
        core = cv2.erode(binary, np.ones((3, 3), np.uint8), iterations=bite) if bite else binary
        _, labels, stats, _ = cv2.connectedComponentsWithStats(core, connectivity=4)
        areas = {i: int(stats[i, cv2.CC_STAT_AREA]) for i in range(1, len(stats))}
        large = {i: area for i, area in areas.items() if area >= (least if not bite else least / 2)}
        if bite == 0:
            best = (np.asarray(labels, np.int32), large)
        two = sorted(large.values(), reverse=True)[:2]
        if len(two) == 2 and two[1] >= 0.25 * two[0]:
            return (np.asarray(labels, np.int32), large) if bite == 0 else _given_back(binary, labels, large)
    return best


def _given_back(binary: Grey, labels: Any, large: dict[int, int]) -> tuple[NDArray[np.int32], dict[int, int]]:
    distances = np.stack([cv2.distanceTransform((labels != i).astype(np.uint8), cv2.DIST_L2, 3) for i in large])
    names = np.array(list(large), np.int32)
    nearest = np.where(binary > 0, names[np.argmin(distances, axis=0)], 0).astype(np.int32)
    return nearest, {int(i): int(np.count_nonzero(nearest == i)) for i in names}


def _measures(a: Any, b: Any, *, mask: NDArray[np.float32], stray: int) -> LungMeasures:
    centres = [(float(np.nonzero(x)[1].mean()), float(np.nonzero(x)[0].mean())) for x in (a, b)]
    if centres[0][0] > centres[1][0]:
        a, b, centres = b, a, centres[::-1]
    areas = (int(a.sum()), int(b.sum()))
    inside = a | b
    both = sum(areas)
    (ax, ay), (bx, by) = centres
    return LungMeasures(
        area_first=areas[0] / inside.size,
        area_second=areas[1] / inside.size,
        symmetry=min(areas) / max(areas),
        centre_x=(ax * areas[0] + bx * areas[1]) / both / MASK_PX,
        centre_y=(ay * areas[0] + by * areas[1]) / both / MASK_PX,
        gap_x=(bx - ax) / MASK_PX,
        shift_y=abs(by - ay) / MASK_PX,
        border=_border_share(inside),
        solidity=min(_solidity(a), _solidity(b)),
        certainty=float(mask[inside].mean()),
        stray=stray / both,
    )


def _border_share(inside: Any) -> float:
    outline = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) & inside
    edge = np.zeros_like(outline)
    edge[0], edge[-1], edge[:, 0], edge[:, -1] = 1, 1, 1, 1
    on_edge = int(np.count_nonzero(inside.astype(np.uint8) & edge))
    return on_edge / max(1, int(np.count_nonzero(outline | (inside & (edge > 0)))))


def _solidity(body: Any) -> float:
    contours, _ = cv2.findContours(body.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = np.concatenate(contours)
    hull = float(cv2.contourArea(cv2.convexHull(points)))
    return min(1.0, float(np.count_nonzero(body)) / max(1.0, hull))
