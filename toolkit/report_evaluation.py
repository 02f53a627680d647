"""The sections that an evaluation fills: the gap first, then figures, groups, shortcuts, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.confounding import CONFOUNDING_COLUMNS, confounding_rows
from toolkit.plots import Curve, Range, confusion_plot, interval_plot, reliability_plot, roc_plot
from toolkit.report_page import Block, Cell, Facts, Figure, Figures, Note, Row, Section, Table, Text
from toolkit.summary import MIN_GROUP_PATIENTS
from toolkit.summary_text import (
    METRICS,
    megabytes,
    metric_columns,
    number,
    seen_warnings,
    shortcut_interval,
    temperature_warning,
    with_ece,
    with_interval,
    words,
)

Json = Mapping[str, Any]


def evaluation_sections(evaluation: Json) -> list[Section]:
    """The sections, from the most to the least important.

    Args:
        evaluation: as in `evaluation.json`.
    """
    return [
        Section("gap", "Inside and outside", _gap_blocks(evaluation)),
        Section("curves", "Curves and decisions", _curve_blocks(evaluation)),
        Section("compare", "Between models", _compare_blocks(evaluation)),
        Section("shortcuts", "Shortcuts", _shortcut_blocks(evaluation)),
        Section("groups", "Groups of patients", _group_blocks(evaluation)),
        Section("scored", "What was scored", _scored_blocks(evaluation)),
    ]


def interval_cell(interval: Json | None, *, digits: int = 3, signed: bool = False) -> Cell:
    """The value with its interval below."""
    if not interval or interval["value"] is None:
        return Cell(number(None))
    text = with_interval(interval, digits=digits, signed=signed)
    value, _, rest = text.partition(" (")
    # Columns are narrow: a dash for "to", but not where a sign would meet it.
    return Cell(value, rest.rstrip(")") if signed else rest.rstrip(")").replace(" to ", "–"))


def _gap_blocks(evaluation: Json) -> list[Block]:
    blocks: list[Block] = [Note(warning, "bad") for warning in seen_warnings(evaluation)]
    blocks += _headline_blocks(evaluation)
    ranges = _ranges(evaluation)
    if ranges:
        svg = interval_plot(ranges, x="AUROC", chance=0.5, key="auroc")
        alt = "; ".join(f"{one.name}: {one.value:.3f}" for one in ranges)
        caption = "AUROC with 95% intervals; below the models, the best file attribute alone (no lungs looked at)."
        blocks.append(Figures([Figure(svg, caption, alt)]))
    rows: list[Row] = []
    for model in evaluation["models"]:
        for one in evaluation["sets"]:
            found = one["results"][model["name"]]["metrics"]
            count = Cell(str(one["images"]), f"{one['positives']} positive")
            rows.append([model["name"], one["name"], count, *(interval_cell(found.get(name)) for name in METRICS)])
    caption = f"All figures with 95% intervals over {evaluation['resamples']:,} resamples of patients."
    blocks.append(Table(caption, metric_columns(evaluation), rows, text_columns=2))
    if any(model["threshold"] is None for model in evaluation["models"]):
        blocks.append(
            Note("A model without a calibrated threshold has no sensitivity, specificity, PPV and NPV here.", "warn")
        )
    return blocks


def _headline_blocks(evaluation: Json) -> list[Block]:
    blocks: list[Block] = []
    first = evaluation["models"][0]["name"]
    for gap in (gap for gap in evaluation["gaps"] if gap["model"] == first):
        lost = gap["difference"]
        blocks.append(
            Facts(
                [
                    (f"AUROC on {gap['inside']}", *_fact(gap["auroc_inside"])),
                    (f"AUROC on {gap['outside']}", *_fact(gap["auroc_outside"])),
                    ("Lost between them", *_fact(lost)),
                ]
            )
        )
        if gap["auroc_outside"]["low"] is not None and gap["auroc_outside"]["low"] <= 0.5:
            blocks.append(
                Note(
                    f"On '{gap['outside']}' the interval of {first} reaches 0.5 or below: there it is not shown to "
                    "tell the labels apart better than chance. Good inside figures do not make up for that.",
                    "bad",
                )
            )
    return blocks


def _fact(interval: Json) -> tuple[str, str]:
    cell = interval_cell(interval)
    return cell.text, cell.small


def _ranges(evaluation: Json) -> list[Range]:
    ranges: list[Range] = []
    for one in evaluation["sets"]:
        for i, model in enumerate(evaluation["models"]):
            found = one["results"][model["name"]]["metrics"].get("auroc")
            if found:
                ranges.append(Range(f"{one['name']}: {model['name']}", found["value"], found["low"], found["high"], i))
        if one["shortcuts"]:
            name, best = max(one["shortcuts"].items(), key=lambda item: item[1]["value"] or 0.0)
            ranges.append(
                Range(f"{one['name']}: {words(name)} alone", best["value"], best["low"], best["high"], kind=5)
            )
    return ranges


def _curve_blocks(evaluation: Json) -> list[Block]:
    blocks: list[Block] = []
    labels = (evaluation["labels"]["negative"], evaluation["labels"]["positive"])
    for number_, model in enumerate(evaluation["models"]):
        name = model["name"]
        results = [(one["name"], one["results"][name]) for one in evaluation["sets"]]
        figures: list[Figure] = []
        rocs = [Curve(_with_auroc(label, r), r["roc"]["fpr"], r["roc"]["tpr"]) for label, r in results if r["roc"]]
        if rocs:
            alt = f"ROC curves of {name}: " + "; ".join(curve.name for curve in rocs)
            figures.append(Figure(roc_plot(rocs, key=f"roc{number_}"), f"{name}: ROC", alt))
        reliabilities = [
            Curve(label, r["reliability"]["predicted"], r["reliability"]["observed"]) for label, r in results
        ]
        eces = "; ".join(f"{label} ECE {with_ece(r)}" for label, r in results)
        figures.append(
            Figure(
                reliability_plot(reliabilities, key=f"reliability{number_}"),
                f"{name}: reliability, bins of equally many X-rays; on the diagonal, probabilities mean what they say",
                f"Reliability of {name}: {eces}",
            )
        )
        for set_number, (label, r) in enumerate(results):
            counts = r["confusion"]
            if counts:
                svg = confusion_plot(counts, labels=labels, key=f"confusion{number_}-{set_number}")
                alt = ", ".join(f"{words(key)} {counts[key]}" for key in counts if key != "threshold")
                caption = f"{name} on {label}: decisions at threshold {counts['threshold']:.3f}"
                figures.append(Figure(svg, caption, alt))
        blocks.append(Figures(figures))
    return blocks


def _with_auroc(label: str, result: Json) -> str:
    return f"{label} (AUROC {number(result['metrics']['auroc']['value'])})"


def _compare_blocks(evaluation: Json) -> list[Block]:
    rows: list[Row] = [
        [
            f"{pair['model']} minus {pair['baseline']}",
            pair["set"],
            interval_cell(pair["auroc_difference"], digits=4, signed=True),
        ]
        for pair in evaluation["paired"]
    ]
    if not rows:
        return []
    caption = "Difference in AUROC on the same X-rays, with the interval of the difference (paired by patient)."
    return [Table(caption, ["Models", "Set", "Difference in AUROC"], rows, text_columns=2)]


def _shortcut_blocks(evaluation: Json) -> list[Block]:
    sets = [one for one in evaluation["sets"] if one["shortcuts"]]
    if not sets:
        return _confounding_blocks(evaluation)
    names = list(sets[0]["shortcuts"])
    rows: list[Row] = [
        [one["name"], *(interval_cell(shortcut_interval(one["shortcuts"][name])) for name in names)] for one in sets
    ]
    return [
        Text(
            "How well attributes of the file separate the labels without looking at the lungs, in whichever direction. "
            "A model that reaches little more may have learned the scanner, not the disease."
        ),
        Table("AUROC of one file attribute alone", ["Set", *map(words, names)], rows),
        *_confounding_blocks(evaluation),
    ]


def _confounding_blocks(evaluation: Json) -> list[Block]:
    rows: list[Row] = [[*row[:3], *map(interval_cell, row[3:])] for row in confounding_rows(evaluation)]
    if not rows:
        return []
    return [
        Text(
            "A score may read how and of whom the X-ray was taken. Within: AUROC among X-rays of the same view, sex or "
            "age group. By itself: how well the score tells the two commonest apart among X-rays without the finding; "
            "0.5 is not at all. Far from 0.5, one threshold does not fit both."
        ),
        Table("Held still", CONFOUNDING_COLUMNS, rows, text_columns=3),
    ]


def _group_blocks(evaluation: Json) -> list[Block]:
    blocks: list[Block] = []
    for number_, model in enumerate(evaluation["models"]):
        rows: list[Row] = []
        few: list[str] = []
        for one in evaluation["sets"]:
            for group in one["results"][model["name"]]["groups"]:
                if not group["enough"]:
                    few.append(f"{one['name']}, {group['by']} {group['group']} ({group['images']} X-rays)")
                    continue
                found = group["metrics"]
                figures = [interval_cell(found.get(name)) for name in ("auroc", "sensitivity", "specificity")]
                count = Cell(str(group["images"]), f"{group['positives']} positive")
                rows.append([f"{group['by']}: {group['group']}", one["name"], count, *figures])
        if rows:
            columns = ["Group", "Set", "X-rays", "AUROC", "Sensitivity", "Specificity"]
            caption = f"{model['name']} by group of patients"
            blocks.append(Table(caption, columns, rows, text_columns=2, folded=number_ > 0))
        if few and not number_:
            text = f"Left out, with fewer than {MIN_GROUP_PATIENTS} patients of one class: " + "; ".join(few) + "."
            blocks.append(Note(text))
    return blocks


def _scored_blocks(evaluation: Json) -> list[Block]:
    rows: list[Row] = []
    blocks: list[Block] = []
    for one in evaluation["sets"]:
        left_out = ", ".join(f"{count} of '{label}'" for label, count in one["left_out"].items()) or "none"
        rows.append(
            [
                Cell(one["name"], one["index"]),
                left_out,
                *(str(one[key]) for key in ("images", "patients", "positives", "negatives")),
                str(len(one["unreadable"])),
            ]
        )
    columns = ["Set", "Other labels, left out", "X-rays", "Patients", "Positive", "Negative", "Unreadable"]
    blocks.append(Table("Sets", columns, rows, text_columns=2))
    model_rows: list[Row] = [
        [
            Cell(model["name"], model["file"]),
            f"{model['runtime']}, {model['delegate']}",
            Cell(model["logit_from"], f"SHA-256 {model['sha256'][:12]}…"),
            megabytes(model["bytes"]),
            number(model["temperature"]),
            number(model.get("bias", 0.0), signed=True),
            number(model["threshold"]),
        ]
        for model in evaluation["models"]
    ]
    columns = ["Model", "Runtime, delegate", "Logit from", "Size", "Temperature", "Bias", "Threshold"]
    blocks.append(Table("Models, the files themselves", columns, model_rows, text_columns=3))
    warnings = (temperature_warning(model["name"], model["temperature"]) for model in evaluation["models"])
    blocks += [Note(warning, "warn") for warning in warnings if warning]
    for one in evaluation["sets"]:
        if one["unreadable"]:
            unreadable: list[Row] = [[bad["path"], bad["reason"]] for bad in one["unreadable"]]
            caption = f"{len(unreadable)} unreadable X-rays of {one['name']}; they are in no figure"
            blocks.append(Table(caption, ["File", "Why"], unreadable, text_columns=2, folded=len(unreadable) > 10))
    return blocks
