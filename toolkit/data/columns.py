"""Which column of a table holds what: as an option names it, else by its standard name; and which are left over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from toolkit.data.index import read_csv
from toolkit.data.tables import Columns

# What a table is likely to call it, and the name in an index. Path and label must be there and so have defaults.
STANDARD = {"patient": "patient_id", "view": "view", "age": "age", "sex": "sex", "split": "split"}


def header_of(path: Path) -> tuple[str, ...]:
    """The names of the columns of a CSV; () where it has no row.

    Raises:
        IndexFormatError: it cannot be read.
    """
    _, row = next(read_csv(path, required=()), (0, {}))
    return tuple(row)


def chosen_columns(header: tuple[str, ...], named: Mapping[str, str | None]) -> Columns:
    """The columns to read.

    Args:
        header: the names that the table has.
        named: field of `Columns` to column; None takes the standard name if the table has it and no other field claims
            it, "" takes none.
    """
    claimed = {name for name in named.values() if name}
    chosen = {field: name for field, name in named.items() if name is not None}
    for field, name in STANDARD.items():
        if named.get(field) is None and name in header and name not in claimed:
            chosen[field] = name
    return Columns(**chosen)


def unused_columns(header: tuple[str, ...], columns: Columns) -> tuple[str, ...]:
    """The columns of the table that nothing reads, in its order."""
    return tuple(name for name in header if name and name not in columns.named())
