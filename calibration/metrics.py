"""How well scores separate and how honest probabilities are. NumPy only, exact with ties.

`labels` are 0 (negative) and 1 (positive) throughout; a probability *at or above* a threshold is called positive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibration.checks import Floats, Ints, both_classes, check_probabilities, checked
from firmware_bridge.errors import InputError


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    By midranks (Mann-Whitney U; Hanley & McNeil, Radiology 1982), so it does not depend on the order of tied rows.

    Args:
        labels: (N,) of {0, 1}.
        scores: (N,) finite, any monotone scale.

    Raises:
        InputError: one class only, or the arrays do not belong together.
    """
    positive, values = both_classes(labels, scores)
    order = np.argsort(values, kind="stable")
    starts = _tie_starts(values[order])
    ends = np.append(starts[1:], values.size)
    midranks = (starts + ends + 1) / 2.0  # ranks from 1
    positives_in_tie = np.add.reduceat(positive[order].astype(np.int64), starts)
    n_positive = int(positives_in_tie.sum())
    n_negative = values.size - n_positive
    rank_sum = float(np.dot(positives_in_tie, midranks))
    return (rank_sum - n_positive * (n_positive + 1) / 2.0) / (n_positive * n_negative)


def auroc_within(labels: npt.ArrayLike, scores: npt.ArrayLike, strata: npt.ArrayLike) -> float:
    """AUROC among rows of the same stratum alone: the mean over strata, each as heavy as its share of the positives.

    The area under the covariate-adjusted ROC curve (Janes & Pepe, Biometrika 2009): what is left when positives and
    negatives may no longer be told apart by the stratum. Strata of one class are left out.

    Args:
        labels: (N,) of {0, 1}.
        scores: (N,) finite.
        strata: (N,) of anything that compares.

    Raises:
        InputError: no stratum holds both classes, or the arrays do not belong together.
    """
    positive, values = both_classes(labels, scores)
    names = np.asarray(strata)
    areas, weights = [], []
    for name in np.unique(names):
        members = names == name
        if 0 < (count := int(positive[members].sum())) < int(members.sum()):
            areas.append(auroc(positive[members], values[members]))
            weights.append(count)
    if not areas:
        raise InputError(
            "no stratum holds both classes",
            expected="positives and negatives of one stratum at least",
            came=f"{np.unique(names).size} strata of one class each",
            do="look at the groups one by one",
        )
    return float(np.average(areas, weights=weights))


def auprc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Average precision: precision summed over the steps in recall, without interpolation.

    Interpolating a precision-recall curve linearly is too optimistic (Davis & Goadrich, ICML 2006).

    Args:
        labels: (N,) of {0, 1}.
        scores: (N,) finite.

    Raises:
        InputError: one class only, or the arrays do not belong together.
    """
    true_positives, called, _ = _cumulative(*both_classes(labels, scores))
    precision = true_positives / called
    gained = np.diff(true_positives, prepend=0) / true_positives[-1]
    return float(np.dot(gained, precision))


def brier(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Mean squared difference between probability and label, 0 (perfect) to 1 (Brier 1950).

    Raises:
        InputError: a probability outside [0, 1], or the arrays do not belong together.
    """
    positive, values = checked(labels, probabilities)
    check_probabilities(values)
    return float(np.mean((values - positive) ** 2))


def negative_log_likelihood(labels: npt.ArrayLike, logits: npt.ArrayLike) -> float:
    """Mean negative log-likelihood (nats per X-ray) of `labels` (N,) under sigmoid of `logits` (N,).

    Raises:
        InputError: the arrays do not belong together.
    """
    positive, values = checked(labels, logits)
    return float(np.mean(np.logaddexp(0.0, values) - positive * values))


@dataclass(frozen=True, slots=True)
class Reliability:
    """What was promised and what was found, bin by bin; empty bins are left out.

    Attributes:
        predicted: (B,) float64, mean probability of each bin, ascending.
        observed: (B,) float64, share of positives of each bin.
        counts: (B,) int64, X-rays in each bin, each at least 1.
    """

    predicted: Floats
    observed: Floats
    counts: Ints


def reliability(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, bins: int = 15, equal_mass: bool = True
) -> Reliability:
    """Mean probability against share of positives, in bins.

    Bins hold equally many X-rays by default. A classifier's probabilities crowd near 0 and 1; bins of equal width
    leave the middle ones with a handful of X-rays, whose noise then counts as miscalibration (Nixon et al. 2019;
    Roelofs et al. 2022 find equal mass the less biased). Tied probabilities always share a bin, so the result does
    not depend on the order of rows.

    Args:
        labels: (N,) of {0, 1}.
        probabilities: (N,) in [0, 1].
        bins: how many at most, 1 or more.
        equal_mass: False for bins of equal width.

    Raises:
        InputError: a probability outside [0, 1], no bin, or the arrays do not belong together.
    """
    positive, values = checked(labels, probabilities)
    check_probabilities(values)
    if bins < 1:
        raise InputError("no bins to sort into", expected="at least 1 bin", came=str(bins), do="use 10 to 20 bins")
    order = np.argsort(values, kind="stable")
    values, truth = values[order], positive[order]
    if equal_mass:
        starts = _tie_starts(values)
        ends = np.append(starts[1:], values.size)
        middles = (starts + ends) / (2.0 * values.size)  # in (0, 1): where each tie stands in the whole
        bin_of = np.repeat(np.minimum((middles * bins).astype(np.int64), bins - 1), ends - starts)
    else:
        bin_of = np.minimum((values * bins).astype(np.int64), bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    used = counts > 0
    predicted = np.bincount(bin_of, weights=values, minlength=bins)[used] / counts[used]
    observed = np.bincount(bin_of, weights=truth, minlength=bins)[used] / counts[used]
    return Reliability(predicted, observed, counts[used].astype(np.int64))


def ece(labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, bins: int = 15, equal_mass: bool = True) -> float:
    """Expected calibration error: the mean gap between promised and found, weighted by bin size (Naeini 2015).

    Equal-mass bins by default: see `reliability`.

    Raises:
        InputError: as `reliability`.
    """
    found = reliability(labels, probabilities, bins=bins, equal_mass=equal_mass)
    return float(np.dot(found.counts, np.abs(found.predicted - found.observed)) / found.counts.sum())


def ece_by_chance(
    probabilities: npt.ArrayLike, *, bins: int = 15, equal_mass: bool = True, draws: int = 1000, seed: int = 0
) -> float:
    """The mean ECE that these probabilities would show if every one of them were exactly true, 0 to 1.

    With few X-rays in a bin the share found sick differs from the share promised by luck alone, and ECE counts luck
    as error. Here labels are drawn from the probabilities themselves (consistency resampling, Bröcker & Smith 2007,
    "Increasing the Reliability of Reliability Diagrams"). An ECE near this figure says nothing against a model.

    Args:
        probabilities: (N,) in [0, 1].
        bins: as for `ece`.
        equal_mass: as for `ece`.
        draws: sets of labels, 1 or more.
        seed: of the draws.

    Raises:
        InputError: as `reliability`.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    rng = np.random.default_rng(seed)
    drawn = (rng.random(values.shape) < values for _ in range(draws))
    return float(np.mean([ece(labels, values, bins=bins, equal_mass=equal_mass) for labels in drawn]))


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of the four outcomes at one threshold."""

    true_positives: int
    false_negatives: int
    true_negatives: int
    false_positives: int

    @property
    def sensitivity(self) -> float:
        """Share of positives that are called positive, 0 to 1; NaN without positives."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def specificity(self) -> float:
        """Share of negatives that are called negative, 0 to 1; NaN without negatives."""
        return _share(self.true_negatives, self.true_negatives + self.false_positives)

    def ppv(self, prevalence: float) -> float:
        """Chance that a called positive is one where `prevalence` of the patients are; NaN if none is called."""
        return predictive_values(self.sensitivity, self.specificity, prevalence=prevalence)[0]

    def npv(self, prevalence: float) -> float:
        """Chance that a called negative is one where `prevalence` of the patients are positive; NaN if none is."""
        return predictive_values(self.sensitivity, self.specificity, prevalence=prevalence)[1]


def confusion_at(labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, threshold: float) -> Confusion:
    """The four outcomes when a probability at or above `threshold` is called positive.

    Raises:
        InputError: the arrays do not belong together.
    """
    positive, values = checked(labels, probabilities)
    called = values >= threshold
    return Confusion(
        true_positives=int(np.sum(called & positive)),
        false_negatives=int(np.sum(~called & positive)),
        true_negatives=int(np.sum(~called & ~positive)),
        false_positives=int(np.sum(called & ~positive)),
    )


def predictive_values(sensitivity: float, specificity: float, *, prevalence: float) -> tuple[float, float]:
    """PPV and NPV by Bayes' rule where `prevalence` (0 to 1) of the patients are positive.

    The share of positives in a data set is the collector's choice, so predictive values read off it promise what no
    clinic will see. NaN where nothing would be called positive (PPV) or negative (NPV).

    Raises:
        InputError: the prevalence is outside [0, 1].
    """
    if not 0.0 <= prevalence <= 1.0:
        raise InputError(
            "the prevalence is outside its range",
            expected="a share from 0 to 1",
            came=str(prevalence),
            do="pass 0.1 for one positive among ten patients",
        )
    if math.isnan(sensitivity) or math.isnan(specificity):
        return math.nan, math.nan
    called_sick = sensitivity * prevalence
    called_well = specificity * (1.0 - prevalence)
    ppv = _share(called_sick, called_sick + (1.0 - specificity) * (1.0 - prevalence))
    npv = _share(called_well, called_well + (1.0 - sensitivity) * prevalence)
    return ppv, npv


def roc_curve(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    """False and true positive rates, both (K,) float64 ascending from 0 to 1, one point per distinct score.

    Raises:
        InputError: one class only, or the arrays do not belong together.
    """
    true_positives, called, _ = _cumulative(*both_classes(labels, scores))
    false_positives = called - true_positives
    return (
        np.concatenate(([0.0], false_positives / false_positives[-1])),
        np.concatenate(([0.0], true_positives / true_positives[-1])),
    )


def _cumulative(positive: npt.NDArray[np.bool_], values: Floats) -> tuple[Ints, Ints, Floats]:
    """From the highest score down: positives so far, rows so far, and the score, each (K,) over distinct scores."""
    order = np.argsort(values, kind="stable")[::-1]
    descending = values[order]
    last = np.append(_tie_starts(descending)[1:], values.size) - 1
    true_positives = np.cumsum(positive[order], dtype=np.int64)[last]
    return true_positives, (last + 1).astype(np.int64), descending[last]


def _tie_starts(ordered: Floats) -> Ints:
    """Where each run of equal values begins in `ordered` (N,) -> (K,) int64."""
    changes = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return np.concatenate(([0], changes)).astype(np.int64)


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
