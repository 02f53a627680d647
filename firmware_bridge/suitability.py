"""Is this an X-ray that the model should score? Judged before a score is given, with statistics that the bundle brings.

Hard refusals, each with its reason: next to no contrast; what the lung network says that it is (turned, upside down,
inverted, cropped, no chest); no plausible lungs; lungs or features like nothing the model was trained on. Softer:
"outside the training population", as an adult is for a model of children. It is told with the score, and refused only
where the settings say so.

A picture that passes is not thereby a good one, see docs/suitability.md.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from firmware_bridge.errors import BundleError, UnsuitableImage
from firmware_bridge.lungs import KINDS, Lungs, square
from firmware_bridge.preprocess import no_lungs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Grey = NDArray[np.uint8]
    Floats = NDArray[np.float32]

__all__ = ["FILE", "VERSION", "Judge", "Statistics", "contrast_of", "measures_of"]

VERSION = 1
FILE = "suitability.npz"
_MOST_BYTES = 16 * 2**20
_OF_KIND = {
    "turned_left": ("the image is turned a quarter to the left", "turn it to the right"),
    "turned_right": ("the image is turned a quarter to the right", "turn it to the left"),
    "upside_down": ("the image is upside down", "turn it round"),
    "inverted": ("the image is inverted: bones are dark", "export it with bones bright (MONOCHROME2 with its window)"),
    "cropped": ("part of the lungs is cut off", "give the whole X-ray"),
    "not_chest": ("this is not a frontal chest X-ray", "give frontal chest X-rays only"),
}
# On the device only these decide, so that a note in a log and a refusal have one name.
REASONS = ("no_contrast", *_OF_KIND, "no_lungs", "odd_lungs", "unlike")


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What was learnt from training X-rays (`calibration.suitability` fits it).

    Attributes:
        contrast_least: scalar, grey levels between the 2nd and the 98th percentile.
        kind_most: (7,) the probability of each of `KINDS` above which a picture is refused for it; upright's is unused.
        measures_mean: (M,) of `measures_of`.
        measures_whiten: (M, M); the distance is the root of the mean square of `(measures - mean) @ whiten`.
        measures_limits: (2,) distances: outside the population, refused.
        features_mean: (C,) of the model's pooled feature maps.
        features_axes: (C, K) orthonormal.
        features_scale: (K,) standard deviation along each axis.
        features_rest: scalar, mean square of what the axes leave over.
        features_limits: (2,) distances: outside the population, refused.
    """

    contrast_least: Floats
    kind_most: Floats
    measures_mean: Floats
    measures_whiten: Floats
    measures_limits: Floats
    features_mean: Floats
    features_axes: Floats
    features_scale: Floats
    features_rest: Floats
    features_limits: Floats

    @classmethod
    def from_bytes(cls, content: bytes) -> Statistics:
        """Read `suitability.npz`.

        Raises:
            BundleError: anything missing, of another shape, or not finite.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if sum(member.file_size for member in archive.infolist()) > _MOST_BYTES:
                    raise ValueError("more than 16 MB")
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                found = {f.name: np.asarray(arrays[f.name], np.float32) for f in fields(cls)}
        # A damaged header makes NumPy and zipfile raise nearly anything.
        except Exception as error:
            raise _broken(" ".join(str(error).split())[:200] or type(error).__name__) from error
        statistics = cls(**found)
        statistics._check()
        return statistics

    def to_bytes(self) -> bytes:
        """`suitability.npz` as `from_bytes` reads it; equal statistics give equal bytes."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f.name: np.asarray(getattr(self, f.name), np.float32) for f in fields(self)}
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    def _check(self) -> None:
        m, (c, k) = self.measures_mean.size, (*self.features_axes.shape, 0, 0)[:2]
        wanted: dict[str, tuple[int, ...]] = {
            "contrast_least": (),
            "kind_most": (len(KINDS),),
            "measures_mean": (m,),
            "measures_whiten": (m, m),
            "measures_limits": (2,),
            "features_mean": (c,),
            "features_axes": (c, k),
            "features_scale": (k,),
            "features_rest": (),
            "features_limits": (2,),
        }
        for name, shape in wanted.items():
            values = getattr(self, name)
            if values.shape != shape or not np.isfinite(values).all():
                raise _broken(f"{name} of shape {values.shape}, or not finite")
        if m != len(MEASURES) or not k or (self.features_scale <= 0).any() or self.features_rest <= 0:
            raise _broken(f"{m} measures, {k} axes, or a scale of 0")

    def measures_distance(self, measures: NDArray[Any]) -> float:
        """How far (M,) measures lie from those of training X-rays; about 1 for one of them."""
        z = (np.asarray(measures, np.float32) - self.measures_mean) @ self.measures_whiten
        return float(np.sqrt(np.mean(z * z)))

    def features_distance(self, mean_features: NDArray[Any]) -> float:
        """The same for (C,) pooled features: along the axes (Lee 2018, shrunk to few) and beside them, in equal parts.

        Raises:
            BundleError: features of another model.
        """
        if mean_features.shape != self.features_mean.shape:
            raise _broken(f"statistics of {self.features_mean.size} features for a model of {mean_features.size}")
        moved = np.asarray(mean_features, np.float32) - self.features_mean
        along = moved @ self.features_axes
        rest = float(moved @ moved - along @ along)
        z = along / self.features_scale
        return float(np.sqrt((np.mean(z * z) + max(0.0, rest) / float(self.features_rest)) / 2))


def _broken(came: str) -> BundleError:
    return BundleError(
        "the bundle's suitability statistics cannot be used",
        expected=f"{FILE} as `cxr-edge train-qat` writes it, for this very model",
        came=came,
        do="build the bundle again",
    )


MEASURES = (
    "area_first",
    "area_second",
    "symmetry",
    "centre_x",
    "centre_y",
    "gap_x",
    "shift_y",
    "border",
    "solidity",
    "certainty",
    "stray",
    "darkness",
    "middle",
)


def contrast_of(small: Grey) -> float:
    """Grey levels between the 2nd and the 98th percentile of a picture (128, 128)."""
    # As np.percentile has it, in a third of its time: 256 levels are counted, nothing is sorted.
    up_to = np.cumsum(np.bincount(small.ravel(), minlength=256))  # (256,) pixels of this level or below

    def level(share: float) -> float:
        place = share * (small.size - 1)
        lower, upper = np.searchsorted(up_to, (int(place), int(place) + 1), side="right")
        return float(lower + (upper - lower) * (place - int(place)))

    return level(0.98) - level(0.02)


def measures_of(small: Grey, lungs: Lungs) -> Floats:
    """(M,) float32: the lungs' geometry, and how dark they are beside the rest and beside what lies between them.

    Args:
        small: (128, 128) uint8, the picture as the lung network saw it.
        lungs: found in it, plausible.
    """
    assert lungs.measures is not None  # plausible lungs have measures
    assert lungs.box is not None
    inside = lungs.mask > 0
    spread = max(1.0, float(small.std()))
    left, top, right, bottom = lungs.box.in_pixels(small.shape[1], small.shape[0])
    part, part_inside = small[top:bottom, left:right], inside[top:bottom, left:right]
    middle = part[:, part.shape[1] // 3 : -(part.shape[1] // 3) or None]
    middle_out = ~part_inside[:, part.shape[1] // 3 : -(part.shape[1] // 3) or None]
    of_lungs = float(small[inside].mean())
    darkness = (float(small[~inside].mean()) - of_lungs) / spread
    beside = (float(middle[middle_out].mean()) - of_lungs) / spread if middle_out.any() else 0.0
    geometry = [float(getattr(lungs.measures, name)) for name in MEASURES[:-2]]
    return np.array([*geometry, darkness, beside], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Judges pictures by the statistics of one bundle.

    Attributes:
        statistics: of that bundle.
        refuse_outside: whether what lies outside the training population is refused too.
    """

    statistics: Statistics
    refuse_outside: bool = False

    def picture(self, pixels: Grey, lungs: Lungs) -> dict[str, float]:
        """Judge a decoded picture (H, W) uint8 before the model sees it.

        Returns:
            The numbers, for the record.

        Raises:
            UnsuitableImage: it must not be scored; with its reason and the numbers.
        """
        small = square(pixels) if lungs.small is None else lungs.small
        numbers = {"contrast": contrast_of(small), "upright": float(lungs.kinds[0])}
        if numbers["contrast"] < float(self.statistics.contrast_least):
            raise _unsuitable("no_contrast", "the image has next to no contrast", "export it with a window", numbers)
        self._check_kind(lungs, numbers)
        if lungs.box is None:
            refusal = no_lungs(lungs)
            refusal.measures.update(_rounded(numbers))
            raise refusal
        numbers["lungs_distance"] = self.statistics.measures_distance(measures_of(small, lungs))
        if numbers["lungs_distance"] > self.statistics.measures_limits[1]:
            raise _unsuitable("odd_lungs", "the lungs look like no lungs of training", _LOOK, numbers)
        return numbers

    def _check_kind(self, lungs: Lungs, numbers: Mapping[str, float]) -> None:
        over = {
            name: float(p)
            for name, p, most in zip(KINDS, lungs.kinds, self.statistics.kind_most, strict=True)
            if name != "upright" and p > most
        }
        if over:
            name = max(over, key=lambda key: over[key])
            what, do = _OF_KIND[name]
            raise _unsuitable(name, what, do, {**numbers, name: over[name]})

    def features(self, mean_features: NDArray[np.float32], numbers: Mapping[str, float]) -> dict[str, Any]:
        """Judge (C,) pooled features after the inference, before its score is told.

        Args:
            mean_features: of this picture.
            numbers: what `picture` gave.

        Returns:
            The `suitability` of the record: "population" ("inside" or "outside") and the numbers.

        Raises:
            UnsuitableImage: the model has never seen the like.
        """
        statistics = self.statistics
        distance = statistics.features_distance(mean_features)
        numbers = {**numbers, "features_distance": distance}
        if distance > statistics.features_limits[1]:
            raise _unsuitable("unlike", "the image is unlike anything the model was trained on", _LOOK, numbers)
        outside = distance > statistics.features_limits[0] or numbers["lungs_distance"] > statistics.measures_limits[0]
        if outside and self.refuse_outside:
            what = "the image is outside the population that the model was trained on"
            raise _unsuitable(
                "outside", what, "set [suitability] outside = 'score' to have such images scored", numbers
            )
        return {"population": "outside" if outside else "inside", **_rounded(numbers)}


_LOOK = "look at the image: is it a whole, upright, frontal chest X-ray?"


def _unsuitable(reason: str, what: str, do: str, numbers: Mapping[str, float]) -> UnsuitableImage:
    told = _rounded(numbers)
    return UnsuitableImage(
        what,
        expected="a frontal chest X-ray, upright, not inverted, whole, like those of training",
        came=", ".join(f"{name} {value:g}" for name, value in told.items()),
        do=do,
        reason=reason,
        measures=told,
    )


def _rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in numbers.items()}
