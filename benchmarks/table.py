"""The report as Markdown: the machine, what each contender takes, and the ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contenders import B0, LITE0
from toolkit.benchmark.stopwatch import FOLDER, SCORE

TITLES = {
    B0: "EfficientNet-B0, 224 px, whole X-ray (random weights)",
    LITE0: "EfficientNet-Lite0, 128 px, lungs first (the weights that ship)",
}
MB = 1e6


def tables(report: Mapping[str, Any]) -> str:
    """All of it, in the order in which one reads."""
    groups = [group for group in TITLES if any(row["network"] == group for row in report["rows"])]
    parts = [machine(report)]
    for group in groups:
        rows = [row for row in report["rows"] if row["network"] == group]
        parts += [f"### {TITLES[group]}", _times(rows), _costs(rows, report["package_bytes"])]
    parts += [f"- {note}" for note in report["notes"]]
    return "\n\n".join(parts)


def machine(report: Mapping[str, Any]) -> str:
    """What the figures were measured on."""
    facts = report["machine"]
    features = ", ".join(facts["features"]).replace("_", " ").upper() or "none of those that kernels ask for"
    return (
        f"{facts['architecture']} with {features}; {facts['cores']} cores, governor {facts['governor']}; "
        f"Python {facts['python']}. Load average {facts['load_average']} at the start, {report['load_average_end']} at "
        f"the end. {report['images']} X-rays, {report['rounds']} rounds in turns; AUROC on {report['held_out']} X-rays."
    )


def _times(rows: Sequence[Mapping[str, Any]]) -> str:
    head = [
        "p50 (p95), ms",
        "threads",
        "infer",
        "file to score",
        "folder, ms an X-ray",
        "ours / it: infer",
        "ours / it: file to score",
        "ours / it: folder",
    ]
    lines = [head]
    for row in rows:
        stages, ratios = row["stages_ms"], row["ratios"]
        lines.append(
            [
                row["name"],
                str(row["threads"]),
                *(f"{stages[stage]['p50']:.1f} ({stages[stage]['p95']:.1f})" for stage in ("infer", SCORE)),
                f"{stages[FOLDER]['p50']:.1f}",
                *(f"{ratios[stage]:.2f}" if ratios else "–" for stage in ("infer", SCORE, FOLDER)),
            ]
        )
    return _markdown(lines)


def _costs(rows: Sequence[Mapping[str, Any]], package_bytes: Mapping[str, int]) -> str:
    lines = [["", "first result, s", "peak memory, MB", "packages, MB", "model file, MB", "AUROC (95% interval)"]]
    for row in rows:
        if row["first_result_s"] is None:
            continue  # told once for each contender, with the fewest threads
        area = row["auroc"]
        lines.append(
            [
                row["name"],
                f"{row['first_result_s']:.2f}",
                f"{row['peak_bytes'] / MB:.0f}",
                f"{package_bytes[row['environment']] / MB:.0f}",
                f"{row['file_bytes'] / MB:.1f}" if row["file_bytes"] else "–",
                f"{area['value']:.4f} ({area['low']:.3f} to {area['high']:.3f})" if area else "–",
            ]
        )
    return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(lines[0])
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))
