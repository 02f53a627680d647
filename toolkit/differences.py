"""Figures that stand between two others: what is lost outside, and what one model has more than another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from calibration.bootstrap import Interval, difference_of_sets, paired_bootstrap
from calibration.metrics import auroc
from toolkit.summary import Json, Options, ScoredSet


def gaps(sets: Sequence[Json], models: Sequence[str]) -> list[Json]:
    """How much AUROC each model loses from each inside set to each outside set."""
    found: list[Json] = []
    for model in models:
        for inside in (s for s in sets if s["role"] == "inside" and s["both_classes"]):
            for outside in (s for s in sets if s["role"] == "outside" and s["both_classes"]):
                ends = [_interval(s["results"][model]["metrics"]["auroc"]) for s in (inside, outside)]
                found.append(
                    {
                        "model": model,
                        "inside": inside["name"],
                        "outside": outside["name"],
                        "auroc_inside": ends[0].to_json(),
                        "auroc_outside": ends[1].to_json(),
                        "difference": difference_of_sets(*ends).to_json(),
                    }
                )
    return found


def paired_differences(scored: Sequence[ScoredSet], *, baseline: str, options: Options) -> list[Json]:
    """AUROC of every other model minus that of `baseline`, on the same X-rays, with its paired interval."""
    found: list[Json] = []
    for one in scored:
        if one.positive.all() or not one.positive.any():
            continue
        for model in one.probabilities:
            if model == baseline:
                continue
            difference = paired_bootstrap(
                auroc,
                one.positive,
                one.probabilities[model],
                one.probabilities[baseline],
                one.patients,
                resamples=options.resamples,
                seed=options.seed,
            )
            found.append(
                {"set": one.name, "model": model, "baseline": baseline, "auroc_difference": difference.to_json()}
            )
    return found


def _interval(told: Mapping[str, float | None]) -> Interval:
    value, low, high = (
        float("nan") if told[key] is None else float(told[key] or 0.0) for key in ("value", "low", "high")
    )
    return Interval(value, low, high)
