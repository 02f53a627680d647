"""From scores to figures with intervals: per set, per group, between sets, between models. No file is touched here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.bootstrap import (
    Interval,
    Statistic,
    exact_when_collapsed,
    patient_bootstrap_all,
)
from calibration.calibrate import bins_for
from calibration.metrics import (
    auprc,
    auroc,
    brier,
    confusion_at,
    ece,
    ece_by_chance,
    predictive_values,
    reliability,
    roc_curve,
)
from toolkit.confounding import confounding
from toolkit.data.index import Xray
from toolkit.data.shortcuts import ATTRIBUTES, attribute_aurocs
from toolkit.groups import groups_of

Json = dict[str, Any]

# A group is compared only with at least this many patients of each class: below, the interval spans nearly everything
# and a table of many such groups shows a difference somewhere by chance alone.
MIN_GROUP_PATIENTS = 10
MAX_ROC_POINTS = 200
INSIDE = "inside"
EVALUATION_KIND = "cxr-edge-evaluation"


@dataclass(frozen=True, slots=True)
class Options:
    """How figures are computed.

    Attributes:
        prevalence: share of positives for PPV and NPV, 0 to 1.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    prevalence: float = 0.1
    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSet:
    """One index, scored by every model.

    Attributes:
        name: as given; a name that begins with "inside" is the training source.
        rows: the N X-rays that were scored.
        positive: (N,) bool.
        attributes: (N, 5) float64, see `file_attributes`.
        logits: by model name, (N,) float64.
        probabilities: by model name, (N,) float64, calibrated.
        unreadable: path and reason of those that could not be read.
        left_out: how many X-rays of which other label were not scored.
        index: where the rows come from, for the report.
        fingerprint: of the index.
        seen: how many of the N a model was trained or chosen by.
    """

    name: str
    rows: tuple[Xray, ...]
    positive: npt.NDArray[np.bool_]
    attributes: npt.NDArray[np.float64]
    logits: Mapping[str, npt.NDArray[np.float64]]
    probabilities: Mapping[str, npt.NDArray[np.float64]]
    unreadable: tuple[tuple[Path, str], ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    index: str = ""
    fingerprint: str = ""
    seen: int = 0

    @property
    def is_inside(self) -> bool:
        """Whether it comes from where the training data came from."""
        return self.name.startswith(INSIDE)

    @property
    def patients(self) -> npt.NDArray[np.str_]:
        """(N,) ids that tell patients of different sources apart."""
        return np.array([f"{row.source}\0{row.patient_id}" for row in self.rows], dtype=str)


def summarise_set(scored: ScoredSet, thresholds: Mapping[str, float | None], options: Options) -> Json:
    """Everything that the report says about one set.

    Args:
        scored: the set.
        thresholds: by model name; None leaves out what needs a threshold.
        options: prevalence, resamples, seed.
    """
    positive, patients = scored.positive, scored.patients
    both = bool(positive.any() and not positive.all())
    shortcuts: dict[str, Interval] = {}
    if both:
        columns = {name: scored.attributes[:, column] for column, name in enumerate(ATTRIBUTES)}
        shortcuts = attribute_aurocs(positive, columns, patients, resamples=options.resamples, seed=options.seed)
    return {
        "name": scored.name,
        "role": "inside" if scored.is_inside else "outside",
        "index": scored.index,
        "fingerprint": scored.fingerprint,
        "images": positive.size,
        "patients": int(np.unique(patients).size),
        "positives": int(positive.sum()),
        "negatives": int((~positive).sum()),
        "both_classes": both,
        "seen": scored.seen,
        "left_out": dict(scored.left_out),
        "unreadable": [{"path": str(path), "reason": reason} for path, reason in scored.unreadable],
        "shortcuts": {name: interval.to_json() for name, interval in shortcuts.items()},
        "results": {
            model: _summarise_model(scored, model, thresholds[model], options) for model in scored.probabilities
        },
    }


def _summarise_model(scored: ScoredSet, model: str, threshold: float | None, options: Options) -> Json:
    positive, probabilities, patients = scored.positive, scored.probabilities[model], scored.patients
    intervals = metrics(positive, probabilities, patients, threshold=threshold, options=options)
    bins = bins_for(positive.size)
    found = reliability(positive, probabilities, bins=bins)
    result: Json = {
        "metrics": {name: interval.to_json() for name, interval in intervals.items()},
        "ece_by_chance": ece_by_chance(probabilities, bins=bins, seed=options.seed) if "ece" in intervals else None,
        "reliability": {
            "predicted": found.predicted.tolist(),
            "observed": found.observed.tolist(),
            "counts": found.counts.tolist(),
        },
        "roc": _roc(positive, probabilities),
        "confusion": None,
        "groups": _groups(scored, probabilities, threshold=threshold, options=options),
        "confounding": _confounding(scored, probabilities, options),
    }
    if threshold is not None:
        counts = confusion_at(positive, probabilities, threshold=threshold)
        result["confusion"] = {
            "threshold": threshold,
            "true_positives": counts.true_positives,
            "false_negatives": counts.false_negatives,
            "true_negatives": counts.true_negatives,
            "false_positives": counts.false_positives,
        }
    return result


def _roc(positive: npt.NDArray[np.bool_], probabilities: npt.NDArray[np.float64]) -> Json | None:
    """The curve in at most 200 points, for the report; None for one class."""
    if positive.all() or not positive.any():
        return None
    fpr, tpr = roc_curve(positive, probabilities)
    kept = np.unique(np.linspace(0, fpr.size - 1, min(fpr.size, MAX_ROC_POINTS)).round().astype(np.int64))
    return {"fpr": fpr[kept].round(5).tolist(), "tpr": tpr[kept].round(5).tolist()}


def metrics(
    positive: npt.NDArray[np.bool_],
    probabilities: npt.NDArray[np.float64],
    patients: npt.NDArray[np.str_],
    *,
    threshold: float | None,
    options: Options,
) -> dict[str, Interval]:
    """Every figure that these X-rays can give, each with its patient-bootstrap interval.

    A set of one class has no AUROC, but a set of sick patients still has a sensitivity. ECE and Brier depend on the
    share of positives, so they are given for sets with both classes only.
    """
    has_positive, has_negative = bool(positive.any()), bool(not positive.all())
    bins = bins_for(positive.size)
    wanted: dict[str, Statistic] = {}
    if has_positive and has_negative:
        wanted |= {"auroc": auroc, "auprc": auprc, "brier": brier, "ece": lambda t, p: ece(t, p, bins=bins)}
    if threshold is not None:
        wanted |= _at_threshold(threshold, options.prevalence, positives=has_positive, negatives=has_negative)
    if not wanted:
        return {}
    found = patient_bootstrap_all(
        wanted, positive, probabilities, patients, resamples=options.resamples, seed=options.seed
    )
    for name, side in (("sensitivity", positive), ("specificity", ~positive)):
        if name in found:
            found[name] = exact_when_collapsed(found[name], patients=int(np.unique(patients[side]).size))
    if has_positive and has_negative and threshold is not None:
        # Nobody called wrongly, in any resample: what sensitivity and specificity may be at worst bounds them as well.
        ends = [found[name].low for name in ("sensitivity", "specificity")]
        for name, low in zip(("ppv", "npv"), predictive_values(*ends, prevalence=options.prevalence), strict=True):
            if found[name].collapsed and found[name].value == 1.0:
                found[name] = Interval(1.0, low, 1.0)
    return found


def _at_threshold(threshold: float, prevalence: float, *, positives: bool, negatives: bool) -> dict[str, Statistic]:
    wanted: dict[str, Statistic] = {}
    if positives:
        wanted["sensitivity"] = lambda t, p: confusion_at(t, p, threshold=threshold).sensitivity
    if negatives:
        wanted["specificity"] = lambda t, p: confusion_at(t, p, threshold=threshold).specificity
    if positives and negatives:
        wanted["ppv"] = lambda t, p: confusion_at(t, p, threshold=threshold).ppv(prevalence)
        wanted["npv"] = lambda t, p: confusion_at(t, p, threshold=threshold).npv(prevalence)
    return wanted


def _groups(
    scored: ScoredSet, probabilities: npt.NDArray[np.float64], *, threshold: float | None, options: Options
) -> list[Json]:
    groups: list[Json] = []
    patients = scored.patients
    for group in groups_of(scored.rows):
        truth, ids = scored.positive[group.members], patients[group.members]
        enough = min(int(np.unique(ids[side]).size) for side in (truth, ~truth)) >= MIN_GROUP_PATIENTS
        found: Mapping[str, Interval] = {}
        if enough:
            found = metrics(truth, probabilities[group.members], ids, threshold=threshold, options=options)
        groups.append(
            {
                "by": group.by,
                "group": group.name,
                "images": truth.size,
                "patients": int(np.unique(ids).size),
                "positives": int(truth.sum()),
                "enough": enough,
                "metrics": {
                    key: found[key].to_json() for key in ("auroc", "sensitivity", "specificity") if key in found
                },
            }
        )
    return groups


def _confounding(scored: ScoredSet, probabilities: npt.NDArray[np.float64], options: Options) -> list[Json]:
    return confounding(
        scored.rows,
        scored.positive,
        probabilities,
        scored.patients,
        resamples=options.resamples,
        seed=options.seed,
    )
