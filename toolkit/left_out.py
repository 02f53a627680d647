"""X-rays of training and validation that a run could not use: reports and cards count them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from toolkit.data.index import Index
from toolkit.files import damaged_note, write_atomically

FILE = "left_out.json"
Row = dict[str, str]


def write_left_out(left_out: Sequence[tuple[Path, str]], index: Index, run: Path) -> None:
    """Keep path and reason of each in the folder of a run, with split and label as `index` has them.

    Raises:
        ResourceError: the file cannot be written.
    """
    known = {row.path: row for row in index}
    rows = [
        {"path": str(path), "split": known[path].split, "label": known[path].label, "reason": reason}
        for path, reason in left_out
    ]
    write_atomically(run / FILE, json.dumps(rows, indent=1) + "\n")


def read_left_out(run: Path) -> list[Row]:
    """What `write_left_out` kept; nothing where there is no such file.

    Raises:
        InputError: the file cannot be read.
    """
    file = run / FILE
    if not file.is_file():
        return []
    try:
        return [
            {key: str(row[key]) for key in ("path", "split", "label", "reason")} for row in json.loads(file.read_text())
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged_note(file, error) from error


def left_out_note(rows: Sequence[Row], index: Index) -> str:
    """One sentence with the share of each split and label, since a share that differs is a shortcut; "" for none."""
    if not rows:
        return ""
    of = Counter((row.split, row.label) for row in index)
    shares = [f"{split} {label} {n} of {of[split, label]}" for (split, label), n in sorted(_by_class(rows).items())]
    return (
        f"{len(rows)} X-rays were left out of training and validation, unreadable or without lungs: "
        f"{', '.join(shares)}. {FILE} names them."
    )


def _by_class(rows: Sequence[Row]) -> Counter[tuple[str, str]]:
    return Counter((row["split"], row["label"]) for row in rows)
