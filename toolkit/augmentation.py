"""Which augmentations there are and how often each is applied: named here without albumentations, so that a
configuration is checked before anything heavy is imported.
"""

from __future__ import annotations

from collections.abc import Mapping

# Probability of each method by preset. Order is the order of application.
METHODS: Mapping[str, Mapping[str, float]] = {
    "affine": {"light": 0.9, "strong": 0.9, "heavy": 0.9},
    "collimation": {"heavy": 0.4},
    "markers": {"heavy": 0.4},
    "brightness": {"light": 0.7, "strong": 0.8, "heavy": 0.7},
    "gamma": {"light": 0.5, "strong": 0.7, "heavy": 0.5},
    "curve": {"heavy": 0.6},
    "clahe": {"heavy": 0.2},
    "sharpness": {"strong": 0.4, "heavy": 0.4},
    "rescale": {"heavy": 0.3},
    "noise": {"strong": 0.4, "heavy": 0.4},
    "compression": {"strong": 0.3, "heavy": 0.3},
    "dropout": {"strong": 0.3, "heavy": 0.3},
}
# These move the picture or cover its borders; all others change grey levels, and can be kept to the lungs.
SURROUNDINGS = ("affine", "collimation", "markers")
# These need lung masks, and no preset turns them on.
LUNG_METHODS = ("lungs_only", "outside")
PRESETS = ("none", "light", "strong", "heavy")
# The value of an option that leaves the choice to the preset.
AS_PRESET = -1.0


def probabilities(preset: str, chosen: Mapping[str, float]) -> dict[str, float]:
    """How often each method is applied.

    Args:
        preset: one of `PRESETS`.
        chosen: method to probability, 0 to 1; `AS_PRESET` and methods that are not named follow the preset.

    Returns:
        Every method of `METHODS` and `LUNG_METHODS`, 0 to 1.
    """
    wanted = {name: by_preset.get(preset, 0.0) for name, by_preset in METHODS.items()}
    wanted |= dict.fromkeys(LUNG_METHODS, 0.0)
    return wanted | {name: value for name, value in chosen.items() if value != AS_PRESET}
