"""An evaluation as text: numbers with their intervals, the headline, and the Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calibration.temperature import MAX_TEMPERATURE, MIN_TEMPERATURE
from toolkit.confounding import CONFOUNDING_COLUMNS, confounding_rows
from toolkit.data.index import printable
from toolkit.data.shortcuts import cannot_vary

Json = Mapping[str, Any]

METRICS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "ece": "ECE",
    "brier": "Brier",
}
NOTHING = "–"


def number(value: float | None, *, digits: int = 3, signed: bool = False) -> str:
    """`value` with `digits` decimals, or a dash."""
    if value is None:
        return NOTHING
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def percent(share: float | None) -> str:
    """A share from 0 to 1 in percent, or a dash."""
    return NOTHING if share is None else f"{share:.1%}"


def megabytes(size_bytes: int) -> str:
    """A size in MB (millions of bytes)."""
    return f"{size_bytes / 1e6:.2f} MB"


def words(key: str) -> str:
    """A key of the JSON as people read it: `mean_grey` as "mean grey"."""
    return key.replace("_", " ")


def with_interval(interval: Json | None, *, digits: int = 3, signed: bool = False) -> str:
    """`0.983 (0.970 to 0.992)`; where there is no interval, the value and why."""
    if not interval or interval["value"] is None:
        return NOTHING
    value = number(interval["value"], digits=digits, signed=signed)
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return f"{value} (too few patients for an interval)"
    if low == high:
        return f"{value} (every resample alike)"
    ends = [number(end, digits=digits, signed=signed) for end in (low, high)]
    return f"{value} ({ends[0]} to {ends[1]})"


def shortcut_interval(interval: Json) -> Json | None:
    """The AUROC of a file attribute; None, shown as a dash, where the attribute is the same in every file."""
    return None if cannot_vary(interval["value"], interval["low"], interval["high"]) else interval


def temperature_warning(name: str, temperature: float | None) -> str:
    """What it means that a fitted temperature stopped at its bound, where it is no figure; "" where it did not."""
    # The fit ends a rounding error away from its bound.
    if temperature is not None and temperature >= MAX_TEMPERATURE * 0.999:
        why = "the logits carry next to nothing"
    elif temperature is not None and temperature <= MIN_TEMPERATURE * 1.001:
        why = "too few X-rays to fit it on"
    else:
        return ""
    return (
        f"The temperature of {name} stopped at its bound, {number(temperature)}: {why}. Do not trust its probabilities."
    )


def headline(evaluation: Json) -> str:
    """One sentence: what the default model loses outside, or what is not known."""
    model = evaluation["models"][0]["name"]
    found = [gap for gap in evaluation["gaps"] if gap["model"] == model]
    if found:
        worst = max(found, key=lambda gap: gap["difference"]["value"])
        inside, outside = (worst[key]["value"] for key in ("auroc_inside", "auroc_outside"))
        verb = "falls" if worst["difference"]["value"] > 0 else "goes"
        # A set may itself be called "outside".
        which = "" if worst["outside"] == "outside" else f" ({worst['outside']})"
        return (
            f"{model}: AUROC {verb} from {number(inside)} inside to {number(outside)} outside"
            f"{which}, a gap of {with_interval(worst['difference'])}."
        )
    aurocs = [(s, s["results"][model]["metrics"].get("auroc")) for s in evaluation["sets"]]
    known = [(s, interval) for s, interval in aurocs if interval]
    if not known:
        return f"{model}: no set holds both classes, so there is no AUROC."
    first, interval = known[0]
    missing = "outside" if first["role"] == "inside" else "inside"
    return (
        f"{model}: AUROC {with_interval(interval)} on '{first['name']}'. "
        f"Nothing {missing} was scored, so nothing is known about the gap."
    )


def seen_warnings(evaluation: Json) -> list[str]:
    """One for each set that a model has learned from, and one for what nobody here can tell."""
    known = [
        f"{one['seen']} of the {one['images']} X-rays of '{one['name']}' are from the training or validation split of "
        "the run, or of one that it started from or was taught by: figures on them promise too much. Name a test split "
        "that is the same for all of them: --index NAME=PATH:test."
        for one in evaluation["sets"]
        if one.get("seen")
    ]
    known += [
        f"Calibration and threshold of {model['name']} were fitted to the X-rays of '{one['name']}': sensitivity, "
        "specificity, ECE and Brier flatter it there."
        for one in evaluation["sets"]
        for model in evaluation["models"]
        if model.get("fitted_to") and model["fitted_to"] == one.get("fingerprint")
    ]
    before = dict.fromkeys(name for model in evaluation["models"] for name in model.get("learned_before", ()))
    unknown = (
        f"Training started from {' and '.join(before)}, or was taught by it: which X-rays are behind that is not known "
        "here. Where some of these are among them, figures on them promise too much."
    )
    return [*known, unknown] if before else known


def metric_rows(evaluation: Json) -> list[list[str]]:
    """The one table: model, set, X-rays, then every metric with its interval."""
    rows = []
    for model in evaluation["models"]:
        for one in evaluation["sets"]:
            result = one["results"][model["name"]]
            cells = {name: with_interval(result["metrics"].get(name)) for name in METRICS} | {"ece": with_ece(result)}
            count = f"{one['images']} ({one['positives']} positive)"
            rows.append([model["name"], one["name"], count, *cells.values()])
    return rows


def with_ece(result: Json) -> str:
    """A model's ECE on one set, and what luck alone would show there: `0.077 (0.082 to 0.170; luck alone: 0.061)`."""
    shown, luck = with_interval(result["metrics"].get("ece")), result.get("ece_by_chance")
    return shown if luck is None or not shown.endswith(")") else f"{shown[:-1]}; luck alone: {number(luck)})"


def metric_columns(evaluation: Json) -> list[str]:
    """Headings of `metric_rows`."""
    at = f" at {evaluation['prevalence']:.0%} prevalence"
    names = [name + at if name in ("PPV", "NPV") else name for name in METRICS.values()]
    return ["Model", "Set", "X-rays", *names]


def markdown(evaluation: Json) -> str:
    """Headline, notice, and the tables in Markdown."""
    parts = [f"**{headline(evaluation)}**", f"*{evaluation['notice']}*", *seen_warnings(evaluation)]
    parts.append(markdown_table(metric_columns(evaluation), metric_rows(evaluation)))
    if evaluation["gaps"]:
        rows = [
            [gap["model"], f"{gap['inside']} → {gap['outside']}", with_interval(gap["difference"])]
            for gap in evaluation["gaps"]
        ]
        parts.append(markdown_table(["Model", "From → to", "AUROC lost"], rows))
    if evaluation["paired"]:
        rows = [
            [
                f"{pair['model']} minus {pair['baseline']}",
                pair["set"],
                with_interval(pair["auroc_difference"], digits=4, signed=True),
            ]
            for pair in evaluation["paired"]
        ]
        parts.append(markdown_table(["Models", "Set", "Difference in AUROC (paired)"], rows))
    shortcut_rows = [
        [one["name"], *(with_interval(shortcut_interval(interval)) for interval in one["shortcuts"].values())]
        for one in evaluation["sets"]
        if one["shortcuts"]
    ]
    if shortcut_rows:
        names = next(list(one["shortcuts"]) for one in evaluation["sets"] if one["shortcuts"])
        heads = [words(name) for name in names]
        parts.append("AUROC of file attributes alone, without looking at the lungs:")
        parts.append(markdown_table(["Set", *heads], shortcut_rows))
    confounded = [[*row[:3], *map(with_interval, row[3:])] for row in confounding_rows(evaluation)]
    if confounded:
        parts.append("What is left when view, sex or age is held still, and how well the score tells it by itself:")
        parts.append(markdown_table(CONFOUNDING_COLUMNS, confounded))
    return "\n\n".join(parts) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns and rows of text as a table in Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(map(plain, row)) + " |" for row in rows]
    return "\n".join(lines)


def plain(text: str) -> str:
    """`text` of somebody's data, in one line, so that Markdown takes none of it for a table or for HTML."""
    return printable(text).replace("|", "\\|").replace("<", "&lt;")
