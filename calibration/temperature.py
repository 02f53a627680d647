"""Temperature scaling: probabilities that mean what they say, without changing any ranking (Guo et al., ICML 2017)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calibration.checks import Floats, both_classes

# Beyond these a temperature says that the logits carry nothing (top) or that the data is too small (bottom).
MIN_TEMPERATURE = 0.05
MAX_TEMPERATURE = 20.0
_STEPS = 60  # bisection halves [1/20, 20] to 2e-17, float64's own step


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike, *, bias: float = 0.0) -> float:
    """The temperature T that makes sigmoid(logit / T + bias) most likely to have given `labels`.

    The negative log-likelihood is convex in 1/T, so its slope is monotone and bisection finds the one minimum, from
    any data, without a step size. Labels count as Platt's softened targets, (n+1)/(n+2) and 1/(n+2): with logits that
    separate a small set perfectly, hard labels would send T to 0 and every probability to 0 or 1.

    Args:
        logits: (N,) of the file that is deployed (int8 outputs differ from float ones), on data not trained on.
        labels: (N,) of {0, 1}.
        bias: added after the division, held fixed.

    Returns:
        T, within [0.05, 20]; above 1 for an overconfident model.

    Raises:
        InputError: one class only, or the arrays do not belong together.
    """
    positive, values = both_classes(labels, logits)
    targets = _softened(positive)
    low, high = 1.0 / MAX_TEMPERATURE, 1.0 / MIN_TEMPERATURE
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        slope = float(np.dot(sigmoid(values * middle + bias) - targets, values))
        # At 0 (every logit is 0) any temperature fits; the highest promises least of logits that do differ.
        low, high = (low, middle) if slope >= 0 else (middle, high)
    return 2.0 / (low + high)


def fit_temperature_and_bias(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float, float]:
    """Temperature and bias of sigmoid(logit / T + bias), for a model whose mean probability is off as well.

    Platt scaling (Platt 1999, with the numerics of Lin, Lin & Weng 2007): convex in (1/T, bias). The bias also learns
    the share of positives in `labels`; use it where that share is the clinic's, and the temperature alone elsewhere.

    Args:
        logits: (N,) float.
        labels: (N,) of {0, 1}.

    Returns:
        (T, bias), T within [0.05, 20].

    Raises:
        InputError: one class only, or the arrays do not belong together.
    """
    positive, values = both_classes(labels, logits)
    targets = _softened(positive)
    inverse, bias = 1.0 / MAX_TEMPERATURE, 0.0
    # The minimum over the bias for each 1/T is a convex function of 1/T: bisect on its slope (envelope theorem).
    low, high = 1.0 / MAX_TEMPERATURE, 1.0 / MIN_TEMPERATURE
    if np.ptp(values) <= 1e-9 * float(np.abs(values).max(initial=1.0)):
        high = low  # Equal logits say nothing of a temperature, and rounding errors must not choose one.
    for _ in range(_STEPS):
        inverse = (low + high) / 2.0
        bias = _best_bias(values * inverse, targets)
        slope = float(np.dot(sigmoid(values * inverse + bias) - targets, values))
        low, high = (low, inverse) if slope > 0 else (inverse, high)
    return 1.0 / inverse, bias


def calibrated(logits: npt.ArrayLike, *, temperature: float, bias: float = 0.0) -> Floats:
    """Probabilities (N,) float64 in [0, 1] of `logits` (N,), as the device computes them."""
    return sigmoid(np.asarray(logits, dtype=np.float64) / temperature + bias)


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow, any shape."""
    decay = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1.0, decay) / (1.0 + decay))


def _best_bias(shifted: Floats, targets: Floats) -> float:
    """The bias at which the mean probability equals the mean target; the mean is monotone in it."""
    low, high = -30.0 - float(shifted.max()), 30.0 - float(shifted.min())
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        too_high = float(np.sum(sigmoid(shifted + middle) - targets)) > 0
        low, high = (low, middle) if too_high else (middle, high)
    return (low + high) / 2.0


def _softened(positive: npt.NDArray[np.bool_]) -> Floats:
    n_positive = int(np.sum(positive))
    n_negative = positive.size - n_positive
    return np.where(positive, (n_positive + 1.0) / (n_positive + 2.0), 1.0 / (n_negative + 2.0))
