"""How grey levels become the network's input: one definition for training, export and the tests of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class InputScale:
    """How grey levels 0 to 255 become what the network sees: `(grey - zero_grey) * scale`.

    An integer `zero_grey` is the zero point of the int8 input, so the grey bytes are the quantized tensor and
    the device computes nothing. 114 is the mean of ImageNet's three channel means (0.485, 0.456, 0.406) times 255.

    Attributes:
        zero_grey: grey level, 0 to 255, that becomes 0.0; zero padding inside the network stands for it.
        scale: above 0; 1/57.6 is about ImageNet's standard deviation (0.226 of 255).
    """

    zero_grey: int = 114
    scale: float = 1 / 57.6

    def normalise(self, grey: Any) -> Any:
        """`grey` (any shape, 0 to 255, float32 array or tensor) as the network's input."""
        return (grey - float(self.zero_grey)) * self.scale

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest input that grey bytes can give."""
        return (-self.zero_grey * self.scale, (255 - self.zero_grey) * self.scale)


INPUT_SCALE = InputScale()
