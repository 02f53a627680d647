"""What the report says about the written files: size, zeros, operators, difference to float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.report_page import Block, Cell, Row, Table
from toolkit.summary_text import megabytes, number, percent

Json = Mapping[str, Any]


def export_blocks(export: Json) -> list[Block]:
    """Tables of the files, their operators and their layers.

    Args:
        export: as in `export.json`.
    """
    models = export["models"]
    return [_files(models), *_operators(models), *_layers(export.get("layers", []))]


def _files(models: Sequence[Json]) -> Table:
    rows: list[Row] = [
        [
            Cell(str(model["file"]), str(model["precision"])),
            number(model.get("auroc_validation"), digits=4),
            Cell(megabytes(model["bytes"]), f"{megabytes(model['gzip_bytes'])} gzip"),
            *(percent(model.get(key)) for key in ("zero_share_pruned", "zero_share_total")),
            str(model["float_operators"]),
            str(model["partitions"]),
            *(_difference(model, suffix) for suffix in ("", "_float")),
        ]
        for model in models
    ]
    columns = [
        "File",
        "AUROC on validation",
        "Size",
        "Zeros in pruned kernels",
        "Zeros in all weights",
        "Float operators",
        "Partitions",
        "Changed by conversion",
        "Changed from float",
    ]
    caption = (
        "Counted in the written files. Changes are in probability, on validation X-rays: against the graph that the "
        "file was converted from, and against the float model before pruning."
    )
    return Table(caption, columns, rows)


def _difference(model: Json, suffix: str) -> Cell:
    mean, most = (number(model.get(f"{kind}_abs_diff{suffix}"), digits=4) for kind in ("mean", "max"))
    return Cell(mean, f"at most {most}")


def _operators(models: Sequence[Json]) -> list[Block]:
    names = sorted({name for model in models for name in model.get("operators", {})})
    if not names:
        return []
    rows: list[Row] = [[name, *(str(model.get("operators", {}).get(name, 0)) for model in models)] for name in names]
    columns = ["Operator", *(str(model["file"]) for model in models)]
    return [Table("Operators by type", columns, rows, folded=True)]


def _layers(layers: Sequence[Json]) -> list[Block]:
    if not layers:
        return []
    rows: list[Row] = [
        [
            str(layer["name"]),
            " × ".join(str(side) for side in layer["shape"]),
            "yes" if layer["pruned"] else "no",
            str(layer["zeros"]),
            percent(layer["share"]),
        ]
        for layer in layers
    ]
    columns = ["Layer", "Shape", "Pruned", "Zeros", "Share"]
    return [Table("Zeros layer by layer", columns, rows, text_columns=3, folded=True)]
