"""A rectangle in a picture, in shares of its sides: it means the same in a reduced copy."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """A box in shares of a picture's width and height, 0 to 1 inside it; right and bottom exclusive."""

    left: float
    top: float
    right: float
    bottom: float

    def with_margin(self, share: float) -> Box:
        """Larger by `share` of its width and height on every side, clamped to the picture."""
        dx, dy = share * (self.right - self.left), share * (self.bottom - self.top)
        return Box(
            max(0.0, self.left - dx), max(0.0, self.top - dy), min(1.0, self.right + dx), min(1.0, self.bottom + dy)
        )

    def in_pixels(self, width_px: int, height_px: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in a picture of this size, outwards to whole pixels; at least one pixel."""
        left, top = math.floor(self.left * width_px), math.floor(self.top * height_px)
        right, bottom = math.ceil(self.right * width_px), math.ceil(self.bottom * height_px)
        return left, top, max(left + 1, min(width_px, right)), max(top + 1, min(height_px, bottom))

    def part(self, inner: Box) -> Box:
        """What `inner`, in shares of this box, is in shares of the picture that this box is in."""
        width, height = self.right - self.left, self.bottom - self.top
        return Box(
            self.left + inner.left * width,
            self.top + inner.top * height,
            self.left + inner.right * width,
            self.top + inner.bottom * height,
        )

    def to_json(self) -> list[float]:
        """[left, top, right, bottom], rounded to what a pixel of a large X-ray is."""
        return [round(side, 4) for side in (self.left, self.top, self.right, self.bottom)]
