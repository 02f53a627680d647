"""The results of an archive as FHIR R4: what the agent would have reported, one transaction Bundle a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from firmware_bridge.errors import ConfigError
from firmware_bridge.result import iso_utc
from firmware_bridge.results_export import fhir_line
from toolkit.archive.rows import SCORED, Row
from toolkit.archive.seen import Seen
from toolkit.files import replacing

_COLUMNS = [
    *("result_id", "status", "label_positive", "probability", "threshold", "positive", "population"),
    *("bundle_id", "bundle_name", "scored_at"),
]


def check_fhir_file(path: Path) -> None:
    """Before hours of scoring: whether `path` can be written at their end.

    Raises:
        ConfigError: its folder is not there, or it is a folder.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(
            f"{path} cannot become the FHIR file",
            expected="a file in a folder that is there",
            came="a folder of that name" if path.is_dir() else f"no folder {path.parent}",
            do="make the folder, or name another file",
        )


def write_fhir(results: Path, path: Path) -> int:
    """Write every X-ray that was scored as one Bundle a line (NDJSON), whole or not there; how many those are.

    Nobody is named: no patient, no path. The picture's id is the result's. The same picture under two paths has one
    result, and is written once. Memory is bounded.

    Args:
        results: the folder that `score_archive` made.
        path: the file; replaced.

    Raises:
        ResourceError: the disk is full, or the folder cannot be written.
        InvalidFhir: a Bundle that is none (checked where the extra 'fhir' is installed): a fault of ours.
    """
    with replacing(path) as part, closing(Seen()) as seen, part.open("w", encoding="utf-8") as file:
        for row in _scored(results):
            if seen.add(row["result_id"]):
                file.write(fhir_line(_record(row)))
        return seen.count


def _scored(results: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    for part in sorted(results.glob("part-*-*.parquet")):
        with pq.ParquetFile(part.absolute()) as file:
            for batch in file.iter_batches(columns=_COLUMNS):
                yield from (row for row in batch.to_pylist() if row["status"] == SCORED)


def _record(row: Row) -> dict[str, Any]:
    """What FHIR takes of a result record."""
    return {
        "id": row["result_id"],
        "time": iso_utc(row["scored_at"], timespec="milliseconds"),
        "image": {"id": row["result_id"]},
        "bundle": {"id": row["bundle_id"], "name": row["bundle_name"]},
        "label_positive": row["label_positive"],
        "probability": round(row["probability"], 6),
        "threshold": row["threshold"],
        "decision": "positive" if row["positive"] else "negative",
        "suitability": {"population": row["population"]} if row["population"] else None,
    }
