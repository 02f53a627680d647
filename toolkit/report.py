"""The report of a training run: reads what the run folder holds, so it can be made at any time and made again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from firmware_bridge.errors import InputError
from toolkit.data.index import Index
from toolkit.files import write_atomically
from toolkit.left_out import left_out_note, read_left_out
from toolkit.plots import learning_curves
from toolkit.report_evaluation import evaluation_sections, interval_cell
from toolkit.report_export import export_blocks
from toolkit.report_page import Block, Cell, Code, Facts, Figure, Figures, Note, Row, Section, Table, Text, render
from toolkit.summary_text import (
    NOTHING,
    headline,
    megabytes,
    number,
    percent,
    shortcut_interval,
    temperature_warning,
    words,
)

Json = Mapping[str, Any]

REPORT_NAME = "report.html"
# A page lists so many results of the agent; the caption counts all.
_MAX_AGENT_ROWS = 200


def training_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder from whatever is there; what is not there yet is left out.

    Reads `history.json`, `export.json`, `calibration.json`, `evaluation.json`, `audit.json`, `agent.json` (a list of
    result records), `index.csv` and `config.toml`.

    Args:
        run_dir: the run.

    Returns:
        The path of the report.

    Raises:
        InputError: there is no such folder, nothing in it to report, or a file that is no JSON.
        MissingExtraError: jinja2 or matplotlib is not installed.
        ResourceError: the report cannot be written.
    """
    parts = {name: _read(run_dir / f"{name}.json") for name in _JSON_PARTS}
    if not any(part is not None for part in parts.values()):
        raise InputError(
            f"there is nothing to report in {run_dir}",
            expected="a training run with " + ", ".join(f"{name}.json" for name in _JSON_PARTS),
            came="none of these files" if run_dir.is_dir() else "no such folder",
            do="start or finish the run with: cxr-edge train-qat",
        )
    sections = [Section("summary", "In short", _summary_blocks(parts))]
    sections += [
        Section(name, title, blocks(parts[name])) for name, title, blocks in _SECTIONS if parts[name] is not None
    ]
    if parts["evaluation"] is not None:
        sections[1:1] = evaluation_sections(parts["evaluation"])
    sections.append(Section("data", "Data", _data_blocks(run_dir / "index.csv")))
    sections.append(Section("config", "Configuration", _config_blocks(run_dir / "config.toml")))
    path = run_dir / REPORT_NAME
    write_atomically(path, render(f"Training run {run_dir.resolve().name}", _headline(parts), sections))
    return path


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read", expected="JSON as the run writes it", came=str(error), do="run that step again"
        ) from error


def _headline(parts: Json) -> str:
    if parts["evaluation"] is not None:
        return headline(parts["evaluation"])
    if parts["export"] is not None and parts["export"]["models"]:
        model = parts["export"]["models"][0]
        return (
            f"{model['file']}: AUROC {number(model.get('auroc_validation'))} on validation, "
            f"{megabytes(model['bytes'])}. Nothing outside was scored, so nothing is known about other hospitals."
        )
    return "This run is not finished: there is no exported model yet."


def _summary_blocks(parts: Json) -> list[Block]:
    blocks: list[Block] = []
    models = (parts["export"] or {}).get("models", [])
    if models:
        first = models[0]
        float_alone = first["precision"] == "float"  # of `cxr-edge train`: nothing is pruned, no device runs it
        zeros = NOTHING if float_alone else percent(first.get("zero_share_pruned"))
        blocks.append(
            Facts(
                [
                    (
                        "Float file, for no device" if float_alone else "Deployed file",
                        megabytes(first["bytes"]),
                        f"{megabytes(first['gzip_bytes'])} gzip",
                    ),
                    ("AUROC on validation", number(first.get("auroc_validation")), str(first["file"])),
                    ("Zeros in pruned kernels", zeros, "not pruned" if float_alone else "counted in the file"),
                    ("Float operators", str(first["float_operators"]), f"{first['partitions']} delegate partition(s)"),
                ]
            )
        )
    if parts["audit"] is not None and parts["audit"].get("leaks"):
        reasons = " ".join(str(reason) for reason in parts["audit"].get("leak_reasons", []))
        blocks.append(Note(f"The splits leak, so figures on them promise too much. {reasons}", "bad"))
    if models and parts["evaluation"] is None:
        text = "Only the validation split was scored, from which the run also chose. See `cxr-edge evaluate`."
        blocks.append(Note(text, "warn"))
    return blocks


def _history_blocks(history: Json) -> list[Block]:
    phases = [phase for phase in history["phases"] if phase["epochs"]]
    if not phases:
        return []
    last = phases[-1]["epochs"][-1]
    seconds = sum(epoch.get("seconds") or 0.0 for phase in phases for epoch in phase["epochs"])
    figures = [
        Figure(
            learning_curves(phases, keys=("loss", "val_loss"), title="loss", key="loss"),
            "Loss, training and validation; training sees augmented X-rays and smoothed labels. In pruning and QAT its "
            "loss also has the distance from the float model: it cannot be compared between phases",
            f"Loss over the epochs, at the end {number(last.get('loss'))}, validation {number(last.get('val_loss'))}",
        ),
        Figure(
            learning_curves(phases, keys=("val_auroc",), title="AUROC", key="val-auroc"),
            "AUROC on the validation split",
            f"AUROC on validation over the epochs, at the end {number(last.get('val_auroc'))}",
        ),
    ]
    keys = ["loss", "val_loss", "val_auroc", "seconds", "input_wait_share"]
    rows: list[Row] = [
        [f"{phase['name']} {epoch['epoch']}", *(_epoch_cell(key, epoch.get(key)) for key in keys)]
        for phase in phases
        for epoch in phase["epochs"]
    ]
    columns = ["Epoch", "Loss", "Validation loss", "Validation AUROC", "Seconds", "Waiting for input"]
    waits = [float(e["input_wait_share"]) for p in phases for e in p["epochs"] if e.get("input_wait_share") is not None]
    blocks: list[Block] = [Figures(figures)]
    if waits:
        share = sum(waits) / len(waits)
        text = f"Training waited for its input {share:.1%} of the time; it took {seconds / 60:.1f} minutes in all."
        blocks.append(Note(text, "warn" if share > 0.1 else "good"))
    return [*blocks, Table("Every epoch", columns, rows, folded=True)]


def _epoch_cell(key: str, value: float | None) -> str:
    if value is not None and key == "input_wait_share":
        return f"{value:.1%}"
    return number(value, digits=1 if key == "seconds" else 4)


def _calibration_blocks(calibration: Json) -> list[Block]:
    models = calibration.get("models", calibration)
    rows: list[Row] = []
    for name, fit in models.items():
        if not isinstance(fit, dict) or "temperature" not in fit:
            continue
        low_high = fit.get("threshold_interval") or [None, None]
        rows.append(
            [
                name,
                number(fit["temperature"]),
                number(fit.get("bias", 0.0), signed=True),
                Cell(number(fit.get("threshold")), f"{number(low_high[0])} to {number(low_high[1])}"),
                interval_cell(fit.get("sensitivity")),
                interval_cell(fit.get("specificity")),
                *(_before_after(fit.get(key)) for key in ("ece", "brier")),
            ]
        )
    if not rows:
        return []
    fitted = ((name, fit) for name, fit in models.items() if isinstance(fit, dict))
    warnings = [temperature_warning(name, fit.get("temperature")) for name, fit in fitted]
    columns = ["Model", "Temperature", "Bias", "Threshold", "Sensitivity", "Specificity", "ECE", "Brier"]
    return [
        Text(
            "Fitted on the validation outputs of each file itself: quantization moves the logits, so int8 gets its own "
            "temperature and threshold. The threshold is the highest that reaches the wished sensitivity there."
        ),
        Table("Calibration on the validation split, with 95% intervals; ECE and Brier after (before)", columns, rows),
        *(Note(warning, "warn") for warning in warnings if warning),
    ]


def _before_after(pair: Json | None) -> Cell:
    return Cell(number(pair["after"]), f"before {number(pair['before'])}") if pair else Cell("–")


def _audit_blocks(audit: Json) -> list[Block]:
    blocks: list[Block] = []
    if audit.get("leaks"):
        blocks += [Note(str(reason), "bad") for reason in audit.get("leak_reasons", [])]
    else:
        blocks.append(Note("No patient and no picture is on both sides of a split.", "good"))
    blocks += [Note(str(note)) for note in audit.get("notes", [])]
    counts = {name: value for name, value in audit.get("summary", {}).items() if isinstance(value, int)}
    rows: list[Row] = [[words(name), str(value)] for name, value in counts.items()]
    if rows:
        blocks.append(Table("Audit", ["What", "How many"], rows))
    shortcuts: list[Row] = []
    for one in audit.get("shortcuts", []):
        interval = {"value": one["auroc"], "low": one.get("low", one["auroc"]), "high": one.get("high", one["auroc"])}
        shown = shortcut_interval(interval)
        shortcuts.append([words(str(one["attribute"])), number(shown["value"] if shown else None)])
    if shortcuts:
        blocks.append(Table("AUROC of one file attribute alone", ["Attribute", "AUROC"], shortcuts))
    return blocks


def _agent_blocks(results: Sequence[Json]) -> list[Block]:
    rows: list[Row] = []
    for result in results[:_MAX_AGENT_ROWS]:
        image = result.get("image", {})
        name = str(image.get("name") or image.get("id", ""))[:60]
        if "refused" in result:
            rows.append([name, "refused", Cell(result["refused"]["what"], result["refused"]["came"]), "–", "–", "–"])
            continue
        total_ms = sum(result.get("timings_ms", {}).values())
        numbers = (number(result["probability"]), number(result["threshold"]), f"{total_ms:.1f}")
        rows.append([name, result["decision"], result["label_positive"], *numbers])
    columns = ["X-ray", "Decision", "For", "Probability", "Threshold", "Milliseconds"]
    caption = f"{len(results)} results as they came off the stream"
    return [Table(caption, columns, rows, text_columns=3)] if rows else []


def _data_blocks(path: Path) -> list[Block]:
    if not path.is_file():
        return []
    index = Index.read(path)
    counts = Counter((row.split or "none", row.label) for row in index)
    patients = {key: len({r.patient_id for r in index if (r.split or "none", r.label) == key}) for key in counts}
    rows: list[Row] = [
        [split, label, str(count), str(patients[split, label])] for (split, label), count in sorted(counts.items())
    ]
    caption = f"{len(index)} X-rays; fingerprint {index.fingerprint()[:16]}…"
    note = left_out_note(read_left_out(path.parent), index)
    table = Table(caption, ["Split", "Label", "X-rays", "Patients"], rows, text_columns=2)
    return [table, Note(note, "warn")] if note else [table]


def _config_blocks(path: Path) -> list[Block]:
    return [Code("config.toml", path.read_text(encoding="utf-8"))] if path.is_file() else []


_SECTIONS: tuple[tuple[str, str, Callable[[Any], list[Block]]], ...] = (
    ("export", "The files", export_blocks),
    ("calibration", "Calibration", _calibration_blocks),
    ("history", "Training", _history_blocks),
    ("agent", "Agent", _agent_blocks),
    ("audit", "Audit of the data", _audit_blocks),
)
_JSON_PARTS = ("history", "export", "calibration", "evaluation", "audit", "agent")
