"""Lists of X-rays: an index or another CSV, and Parquet files, read row by row however long they are."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_bridge.errors import IndexFormatError
from toolkit.archive.names import Item, as_text, what_came, without_secrets
from toolkit.archive.walk import Passed
from toolkit.data.index import printable, read_csv

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 4096
_ADVICE = "name the column with --path-column, or mend the list"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the names of a list lead.

    Attributes:
        root: what relative names are taken from: a folder, or an address.
        protocol: of the list itself, "file" for a local one. A list from elsewhere may name X-rays below `root` alone:
            it must not have this machine's files, or its network's, read.
    """

    root: str
    protocol: str = "file"

    def locate(self, name: str) -> tuple[str, str]:
        """The location of an X-ray that a list calls `name`, and the problem with it (empty where there is none)."""
        if "\0" in name:
            return "", "a name with a NUL byte"
        here = self.protocol == "file"
        if "://" in name and here:
            return name, ""
        if "://" not in self.root:
            return posixpath.normpath(posixpath.join(self.root, name)), ""
        below = self.root if self.root.endswith("/") else f"{self.root}/"  # "ftp:///" keeps all of its slashes
        inside = name.removeprefix(below)
        # "::" makes fsspec look elsewhere, too ("URL chaining").
        if "://" in inside or "::" in inside or inside.startswith("/") or ".." in inside.split("/"):
            return "", "a name that leaves the folder of the list"
        return below + inside, ""

    def item(self, name: str, kept: tuple[object, ...]) -> Item:
        """The X-ray that a list calls `name`."""
        location, problem = self.locate(name)
        return Item(as_text(name), location, kept, problem)


def csv_items(path: Path, place: Place, *, column: str, keep: Sequence[str], passed: Passed) -> Iterator[Item]:
    """The X-rays of a CSV, in its order.

    Raises:
        IndexFormatError: it cannot be read, or a column is missing.
    """
    for _, row in read_csv(path, required=(column, *keep), do=_ADVICE):
        if row[column].strip():
            yield place.item(row[column], tuple(as_text(row[name]) for name in keep))
        else:
            passed.nameless += 1


def parquet_list(path: str, files: Any, *, column: str, keep: Sequence[str]) -> Any:
    """Open a Parquet file, or a folder of them: a `pyarrow.dataset.Dataset` with the columns that are needed.

    Args:
        path: for the file system.
        files: an fsspec file system, or None for the local one.
        column: of the paths; text.
        keep: other columns.

    Raises:
        IndexFormatError: no Parquet, or a column is missing or of another kind.
    """
    import pyarrow as pa
    import pyarrow.dataset

    try:
        dataset = pa.dataset.dataset(path, format="parquet", filesystem=files)
        schema = dataset.schema
    except Exception as error:  # Arrow's own, and each file system has errors of its own
        raise not_parquet(path, what_came(error)) from error
    path = without_secrets(path)
    missing = [name for name in (column, *keep) if name not in schema.names]
    if missing:
        raise IndexFormatError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}",
            expected=f"Parquet with the columns {', '.join((column, *keep))}",
            came=f"the columns {printable(', '.join(schema.names))}"[:500],
            do=_ADVICE,
        )
    kind = _plain(schema.field(column).type)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise IndexFormatError(
            f"the column {column!r} of {path} holds no names", expected="text", came=str(kind), do=_ADVICE
        )
    return dataset


def _plain(kind: pa.DataType) -> pa.DataType:
    """What a dictionary (a pandas category) stands for, else the type itself."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def kept_fields(dataset: Any, keep: Sequence[str]) -> list[pa.Field]:
    """The columns that are carried along, as results have them: a category as what it stands for."""
    import pyarrow as pa

    return [pa.field(name, _plain(dataset.schema.field(name).type)) for name in keep]


def parquet_items(
    dataset: Any, place: Place, *, list_name: str, column: str, keep: Sequence[str], passed: Passed
) -> Iterator[Item]:
    """The X-rays of an opened Parquet list, in its order; each kept value as an Arrow array of one.

    Python has no date of the year 300,000, no nanoseconds and not all time zones: what is only carried along stays
    Arrow's.

    Raises:
        IndexFormatError: it cannot be read to its end.
    """
    for names, kept in _batches(dataset, list_name, [column, *keep]):
        for row, name in enumerate(names):
            if name:
                yield place.item(name, tuple(one.slice(row, 1) for one in kept))
            else:
                passed.nameless += 1


def _batches(dataset: Any, list_name: str, columns: list[str]) -> Iterator[tuple[list[str | None], list[Any]]]:
    """Some rows after others: the first column as texts, the others as Arrow's arrays."""
    try:
        for batch in dataset.to_batches(
            columns=columns, batch_size=_BATCH_ROWS, batch_readahead=2, fragment_readahead=1
        ):
            first, *others = batch.columns
            yield first.to_pylist(), [_decoded(one) for one in others]
    except Exception as error:  # Arrow's own, names that are not UTF-8, and each file system has errors of its own
        raise not_parquet(list_name, what_came(error)) from error


def _decoded(array: Any) -> Any:
    """A column of categories as what they stand for."""
    import pyarrow as pa

    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def not_parquet(path: str, came: str) -> IndexFormatError:
    """The error for a list that cannot be read."""
    return IndexFormatError(
        f"{without_secrets(path)} cannot be read as Parquet",
        expected="a whole Parquet file, or a folder of them",
        came=" ".join(came.split())[:300],
        do="copy it again (from a server that gives no parts of a file: onto this machine), or name a CSV or a folder",
    )


def local_copy(files: Any, path: str) -> Path:
    """A CSV from elsewhere as a temporary file, for the one reader of CSV that there is; the caller removes it.

    Raises:
        IndexFormatError: it cannot be fetched.
    """
    with tempfile.NamedTemporaryFile(suffix=".csv", delete=False) as target:
        pass
    try:
        files.get_file(path, target.name)
    except Exception as error:  # each file system has errors of its own
        Path(target.name).unlink(missing_ok=True)
        raise IndexFormatError(
            f"{without_secrets(path)} cannot be fetched",
            expected="a CSV that can be read there",
            came=what_came(error)[:300],
            do="check the address, the permissions and the network",
        ) from error
    return Path(target.name)
