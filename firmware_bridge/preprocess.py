"""From decoded grey levels to the model's input: a versioned list of named steps, kept in the manifest.

Training, calibration, evaluation and the device run this one piece of code, through `Preparer`. A new step joins
`STEPS`; what a step does never changes under its name, because bundles in the field name it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from firmware_bridge.box import Box
from firmware_bridge.errors import BundleError, UnsuitableImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from firmware_bridge.lungs import LungFinder, Lungs

    Grey = NDArray[np.uint8]

__all__ = ["VERSION", "Prepared", "Preparer", "Preprocessing", "Step"]

VERSION = 1
_MAX_SIZE_PX = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A picture on its way to the model.

    Attributes:
        pixels: (H, W) uint8; after the last step (S, S), C-contiguous.
        field: what of the decoded picture `pixels` shows; beyond 0 to 1 where a letterbox added borders.
        lungs: what the lung network found in the decoded picture; None where nobody asked it.
    """

    pixels: Grey
    field: Box
    lungs: Lungs | None = None

    def lung_mask(self) -> Grey | None:
        """(H, W) uint8, 255 in the lungs, over what `pixels` shows; None where nobody looked for lungs."""
        if self.lungs is None:
            return None
        height, width = self.pixels.shape
        side = self.lungs.mask.shape[0]
        # From places in the result to places in the mask, pixel centres to pixel centres.
        sx = (self.field.right - self.field.left) * side / width
        sy = (self.field.bottom - self.field.top) * side / height
        back = np.array(
            [[sx, 0.0, self.field.left * side + sx / 2 - 0.5], [0.0, sy, self.field.top * side + sy / 2 - 0.5]]
        )
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        soft = cv2.warpAffine(self.lungs.mask, back, (width, height), flags=how)
        return np.asarray(np.where(soft > 127, 255, 0), np.uint8)


@dataclass(frozen=True, slots=True)
class _Kind:
    """One named step: `run(picture, **options)`, its options with their (least, greatest), and its effect."""

    run: Callable[..., Prepared]
    options: Mapping[str, tuple[float, float]]
    sets_size: bool = False


def _resize(picture: Prepared, *, size_px: int) -> Prepared:
    """Squash to a square; the aspect is lost on purpose (it is a shortcut in public data)."""
    return replace(picture, pixels=_scaled(picture.pixels, width_px=size_px, height_px=size_px))


def _letterbox(picture: Prepared, *, size_px: int) -> Prepared:
    """Keep the aspect, fill up with black, as collimated film borders are."""
    height, width = picture.pixels.shape
    scale = size_px / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    canvas = np.zeros((size_px, size_px), np.uint8)
    top, left = (size_px - new_height) // 2, (size_px - new_width) // 2
    small = _scaled(picture.pixels, width_px=new_width, height_px=new_height)
    canvas[top : top + new_height, left : left + new_width] = small
    inside = Box(-left / new_width, -top / new_height, (size_px - left) / new_width, (size_px - top) / new_height)
    return replace(picture, pixels=canvas, field=picture.field.part(inside))


def _scaled(pixels: Grey, *, width_px: int, height_px: int) -> Grey:
    height, width = pixels.shape
    if (height, width) == (height_px, width_px):
        return pixels
    # INTER_AREA averages what it drops, so nothing aliases; upwards it would be nearest neighbour.
    shrinks = width_px * height_px < width * height
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (width_px, height_px), interpolation=how), np.uint8)


def _clahe(picture: Prepared, *, clip_limit: float, tiles: int) -> Prepared:
    """Contrast-limited adaptive histogram equalization (Zuiderveld 1994), as OpenCV does it."""
    # A new object each time costs nothing beside its work, and one holds buffers that threads must not share.
    clahe = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(tiles, tiles))
    return replace(picture, pixels=np.asarray(clahe.apply(picture.pixels), np.uint8))


def _lungs(picture: Prepared, *, margin: float) -> Prepared:
    """Cut to the box around both lungs, `margin` of its sides wider on every side.

    Raises:
        UnsuitableImage: there are no plausible lungs; another crop would be a guess.
    """
    assert picture.lungs is not None  # whoever runs such a step brings lungs; `Preparer` does
    box = picture.lungs.box
    if box is None:
        raise no_lungs(picture.lungs)
    height, width = picture.pixels.shape
    left, top, right, bottom = box.with_margin(margin).in_pixels(width, height)
    cut = Box(left / width, top / height, right / width, bottom / height)
    return replace(picture, pixels=picture.pixels[top:bottom, left:right], field=picture.field.part(cut))


def no_lungs(lungs: Lungs) -> UnsuitableImage:
    """The refusal of a picture in which no plausible lungs were found."""
    return UnsuitableImage(
        "no lungs were found in this image",
        expected="a frontal chest X-ray that shows both lungs",
        came=lungs.why_not,
        do="look at the image: is it a chest X-ray, upright, not inverted, with both lungs in it?",
        reason="no_lungs",
    )


_SIZE = {"size_px": (1, _MAX_SIZE_PX)}
STEPS: Mapping[str, _Kind] = {
    "lungs": _Kind(_lungs, {"margin": (0.0, 1.0)}),
    "resize": _Kind(_resize, _SIZE, sets_size=True),
    "letterbox": _Kind(_letterbox, _SIZE, sets_size=True),
    "clahe": _Kind(_clahe, {"clip_limit": (0.1, 100.0), "tiles": (1, 64)}),
}
WHOLE_NUMBERS = frozenset({"size_px", "tiles"})


@dataclass(frozen=True, slots=True)
class Step:
    """One step: a name in `STEPS` and its options, sorted by name."""

    name: str
    options: tuple[tuple[str, float | int], ...]

    def to_manifest(self) -> dict[str, Any]:
        """The step as the manifest has it."""
        return {"name": self.name, **dict(self.options)}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The steps between the decoder and the model, in order; equal ones compare equal.

    Attributes:
        steps: at least one of them sets the size.
    """

    steps: tuple[Step, ...]

    @classmethod
    def default(cls, size_px: int = 224) -> Preprocessing:
        """Squash to `size_px`, then CLAHE there (0.2 ms, against 27 ms at full size)."""
        steps = [{"name": "resize", "size_px": size_px}, {"name": "clahe", "clip_limit": 2.0, "tiles": 8}]
        return cls.from_manifest({"version": VERSION, "steps": steps})

    @classmethod
    def from_manifest(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Parse `{"version": 1, "steps": [{"name": ..., option: value}, ...]}`.

        Raises:
            BundleError: a newer version, an unknown step, a missing, unknown or impossible option.
        """
        if not isinstance(data, Mapping):
            raise _error("a table with 'version' and 'steps'", type(data).__name__)
        version, steps = data.get("version"), data.get("steps")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise _error("a 'version' of 1", repr(version))
        if version > VERSION:
            raise _error(f"version {VERSION} or older", f"version {version}", do="update cxr-edge on this device")
        if not isinstance(steps, list) or not steps:
            raise _error("a list of steps", repr(steps)[:80])
        parsed = cls(tuple(_parse_step(step) for step in steps))
        if not any(STEPS[step.name].sets_size for step in parsed.steps):
            raise _error("a step that sets the size (resize or letterbox)", ", ".join(s.name for s in parsed.steps))
        return parsed

    def to_manifest(self) -> dict[str, Any]:
        """The form that `from_manifest` reads, ready for JSON."""
        return {"version": VERSION, "steps": [step.to_manifest() for step in self.steps]}

    @property
    def size_px(self) -> int:
        """Side of the square that comes out."""
        sizes = [dict(step.options)["size_px"] for step in self.steps if STEPS[step.name].sets_size]
        return int(sizes[-1])

    @property
    def needs_lungs(self) -> bool:
        """Whether a step cuts to the lungs, so that the bundle must bring a lung network."""
        return any(step.name == "lungs" for step in self.steps)

    @property
    def decode_min_side_px(self) -> int:
        """What to ask the decoder for: the size itself, so that a JPEG is scaled in its DCT as far as it goes.

        Asking for twice the size costs 0.7 ms more on a 1,500-px X-ray; the two differ by 0.9 grey levels of 255 on
        average before CLAHE, 2.1 after it. Training asks for the same. Where the lungs are cut out, they fill about
        half of the picture's sides, and it is the cut that must have the size.
        """
        return self.size_px * 2 if self.needs_lungs else self.size_px

    def apply(self, pixels: Grey) -> Grey:
        """The pixels alone, of steps that need no lungs: (H, W) uint8 to (S, S) uint8."""
        return self.run(pixels).pixels

    def run(self, pixels: Grey, *, lungs: Lungs | None = None) -> Prepared:
        """Run the steps. Whoever reads X-rays does it through `Preparer`.

        Args:
            pixels: (H, W) uint8, as the decoder gives them.
            lungs: found in these pixels; a step that cuts to them needs them.

        Returns:
            With (S, S) uint8 pixels, C-contiguous, S = `size_px`.

        Raises:
            UnsuitableImage: a step cuts to the lungs, and there are none.
        """
        picture = Prepared(pixels, Box(0.0, 0.0, 1.0, 1.0), lungs)
        for step in self.steps:
            picture = STEPS[step.name].run(picture, **dict(step.options))
        return replace(picture, pixels=np.ascontiguousarray(picture.pixels))


class Preparer:
    """From decoded pixels to the model's input: steps and lung network together, in training and on the device alike.

    Args:
        preprocessing: the steps.
        finder: finds lungs, where the bundle or the run has a lung network.

    Raises:
        BundleError: a step needs lungs and there is nothing to find them with.
    """

    def __init__(self, preprocessing: Preprocessing, finder: LungFinder | None = None) -> None:
        if preprocessing.needs_lungs and finder is None:
            raise _error("a lung network beside the model: a step cuts to the lungs", "none")
        self.preprocessing, self.finder = preprocessing, finder

    def look(self, pixels: Grey) -> Lungs | None:
        """The lungs in decoded pixels (H, W) uint8; None without a lung network.

        Raises:
            ModelError: the lung network failed.
        """
        return self.finder.find(pixels) if self.finder else None

    def prepare(self, pixels: Grey, *, lungs: Lungs | None = None) -> Prepared:
        """The model's input from decoded pixels (H, W) uint8.

        Args:
            pixels: as the decoder gives them.
            lungs: what `look` found in them, where it was asked before; else it is asked now if a step needs it.

        Raises:
            UnsuitableImage: a step cuts to the lungs, and there are none.
            ModelError: the lung network failed.
        """
        if lungs is None and self.preprocessing.needs_lungs:
            lungs = self.look(pixels)
        return self.preprocessing.run(pixels, lungs=lungs)


def _parse_step(data: object) -> Step:
    name = data.get("name") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(name, str) or name not in STEPS:
        raise _error(" or ".join(STEPS), f"the step {name!r}", do="update cxr-edge on this device")
    wanted = STEPS[name].options
    given = {key: value for key, value in data.items() if key != "name"}
    if set(given) != set(wanted):
        raise _error(f"step '{name}' with {', '.join(wanted)}", ", ".join(map(str, given)) or "no options")
    options = [(key, _parse_option(name, key, given[key])) for key in sorted(wanted)]
    return Step(name, tuple(options))


def _parse_option(step: str, key: str, value: object) -> float | int:
    low, high = STEPS[step].options[key]
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not numeric or not isinstance(value, (int, float)) or not low <= value <= high:
        raise _error(f"{step}.{key} from {low:g} to {high:g}", repr(value))
    if key in WHOLE_NUMBERS:
        if value != int(value):
            raise _error(f"{step}.{key} as a whole number", repr(value))
        return int(value)
    return float(value)


def _error(expected: str, came: str, *, do: str = "build the bundle again") -> BundleError:
    return BundleError("the bundle's preprocessing cannot be run", expected=expected, came=came, do=do)
