"""The index: one row for each labelled X-ray, whatever the source looked like. Written as a plain CSV."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from firmware_bridge.errors import IndexFormatError
from toolkit.files import write_atomically

SPLITS = ("train", "validation", "test")
SEEN_SPLITS = ("train", "validation")  # weights are learned from the one, thresholds and calibration from the other
_REQUIRED = ("path", "label", "patient_id")
_MAKE_FIRST = "make an index first: cxr-edge data index FOLDER|TABLE.csv --out index.csv"
_NAME_COLUMNS = "name the columns with the options of cxr-edge data index, or mend the header"


@dataclass(frozen=True, slots=True)
class Xray:
    """One labelled X-ray.

    Attributes:
        path: the image file, absolute once read from an index.
        label: its class, for example "normal" or "pneumonia".
        patient_id: who it shows, as far as the source tells; never empty.
        source: which data set.
        view: "PA", "AP", "LL" or empty.
        age: in years, or None.
        sex: "M", "F", "O" or empty.
        split: "train", "validation", "test", or empty while not decided.
        width_px: width of the *original* if the source says so, else None. The file here may have another.
        height_px: height of the original, likewise.
    """

    path: Path
    label: str
    patient_id: str
    source: str = ""
    view: str = ""
    age: float | None = None
    sex: str = ""
    split: str = ""
    width_px: int | None = None
    height_px: int | None = None


COLUMNS = tuple(field.name for field in fields(Xray))


@dataclass(frozen=True, slots=True)
class Index:
    """Labelled X-rays, in a fixed order. Immutable: every change is another index."""

    rows: tuple[Xray, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Xray]:
        return iter(self.rows)

    @classmethod
    def read(cls, path: Path) -> Index:
        """Read an index that `write` wrote, or one written by hand with at least path, label and patient_id.

        Relative paths are taken from the folder of the index. Whether the images exist is the audit's question.

        Raises:
            IndexFormatError: not a CSV, columns missing, a field that cannot be what it should, or no row.
        """
        folder = absolute(path.parent)
        lines = read_csv(path, required=_REQUIRED, others=COLUMNS, do=_MAKE_FIRST)
        rows = tuple(_parse(row, folder, f"{path}, line {line}") for line, row in lines)
        if not rows:
            raise IndexFormatError(
                f"{path} holds no X-ray",
                expected="one row for each X-ray",
                came="the header only",
                do="make it anew: cxr-edge data index",
            )
        return cls(rows)

    def write(self, path: Path) -> None:
        """Write as CSV (UTF-8, header = field names); paths below the index's folder become relative to it.

        Raises:
            ResourceError: the disk is full or the folder cannot be written.
        """
        folder = absolute(path.parent)
        rows = ([_cell(getattr(row, name), folder) for name in COLUMNS] for row in self.rows)
        write_atomically(path, csv_text(COLUMNS, rows))

    def select(self, *, split: str) -> Index:
        """The rows of one split."""
        return Index(tuple(row for row in self.rows if row.split == split))

    def with_rows(self, rows: Iterable[Xray]) -> Index:
        """Another index with these rows."""
        return Index(tuple(rows))

    def labels(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return tuple(sorted({row.label for row in self.rows}))

    def fingerprint(self) -> str:
        """SHA-256 (hex) of which X-rays with which labels and patients; neither order, split nor folder matter.

        Files are named, not hashed: cheap enough to do everywhere.
        """
        keys = sorted("\0".join((row.path.name, row.label, row.patient_id)) for row in self.rows)
        return hashlib.sha256("\n".join(keys).encode("utf-8", "surrogateescape")).hexdigest()


def absolute(path: Path) -> Path:
    """`path` from the root and without "..", links left as they are (their targets may be named without meaning)."""
    return Path(os.path.normpath(path.absolute()))


def printable(text: object) -> str:
    """`text` as one line that any terminal and any UTF-8 file can take: file names hold newlines and stray bytes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in str(text)
    )


def read_csv(
    path: Path, *, required: Sequence[str], others: Sequence[str] = (), do: str = _NAME_COLUMNS
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a CSV with a header: UTF-8, a byte order mark is allowed, names may hold newlines.

    File names that are not UTF-8 pass through as Python keeps them (PEP 383).

    Args:
        path: the CSV.
        required: columns that its header must have.
        others: columns that are read where they are there.
        do: the advice where they are not there, or where `path` is a folder.

    Raises:
        IndexFormatError: it cannot be read, a column of `required` is missing, or one that is read is there twice.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, restval="")
            header = [name or "" for name in reader.fieldnames or ()]
            missing = [name for name in required if name not in header]
            if missing:
                raise IndexFormatError(
                    f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}",
                    expected=f"a CSV whose header has {', '.join(required)}",
                    came=f"the columns {printable(', '.join(header))}"[:500] if header else "an empty file",
                    do=do,
                )
            twice = sorted({name for name in (*required, *others) if header.count(name) > 1})
            if twice:
                raise IndexFormatError(
                    f"{path} has more than one column {' and one '.join(map(repr, twice))}",
                    expected="each column once: nobody can tell which of two is meant",
                    came=f"the columns {printable(', '.join(header))}"[:500],
                    do="rename or remove one of them",
                )
            for row in reader:
                # Cells beyond the header come under the key None; nothing reads them.
                yield reader.line_num, {key: value for key, value in row.items() if key is not None}
    except OSError as error:
        raise IndexFormatError(
            f"{path} cannot be read",
            expected="a CSV file",
            came=error.strerror or str(error),
            do=do if path.is_dir() else "check the path and its permissions",
        ) from error
    except csv.Error as error:
        raise IndexFormatError(
            f"{path} is not a CSV", expected="comma-separated text in UTF-8", came=str(error), do="export it as CSV"
        ) from error


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV that `read_csv` reads back whatever its cells hold, with a line feed after each row."""
    line = io.StringIO()
    # Before Python 3.13 only characters of the terminator are quoted, and a bare carriage return ends a row as well.
    writer = csv.writer(line, lineterminator="\r\n")
    lines = []
    for row in (header, *rows):
        writer.writerow(row)
        lines.append(line.getvalue().removesuffix("\r\n"))
        line.seek(0)
        line.truncate()
    return "\n".join((*lines, ""))


PLAUSIBLE = "sides of an X-ray, the longer at most ten times the shorter"


def plausible_size(width_px: int, height_px: int) -> bool:
    """Whether an X-ray can be of that size: it is stretched to that shape, which must not take all memory."""
    return 0 < width_px < 1e6 and 0 < height_px < 1e6 and 0.1 <= width_px / height_px <= 10


def with_splits(index: Index, splits: Mapping[Path, str]) -> Index:
    """The same X-rays, each with the split that `splits` says for its path; others keep theirs."""
    return index.with_rows(replace(row, split=splits.get(row.path, row.split)) for row in index)


def _cell(value: object, folder: Path) -> str:
    if isinstance(value, Path):
        value = absolute(value)
        return value.relative_to(folder).as_posix() if value.is_relative_to(folder) else str(value)
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


def _parse(row: Mapping[str, str], folder: Path, where: str) -> Xray:
    for name in _REQUIRED:
        if not row[name].strip():
            raise _bad_field(where, name, expected="not empty", came="nothing")
    if "\0" in row["path"]:
        raise _bad_field(where, "path", expected="a file name", came=repr(row["path"]))
    split = row.get("split", "").strip()
    if split not in ("", *SPLITS):
        raise _bad_field(where, "split", expected="train, validation, test, or empty", came=repr(split))
    age = _number(row.get("age", ""), where, "age")
    width, height = (_number(row.get(name, ""), where, name) for name in ("width_px", "height_px"))
    if width and height and not plausible_size(int(width), int(height)):
        raise _bad_field(where, "height_px", expected=PLAUSIBLE, came=f"{width:g} x {height:g}")
    return Xray(
        path=Path(os.path.normpath(folder / row["path"])),
        # A blank at an end is nobody's intention: "12 " and "12" would be two patients, one on each side of a split.
        label=row["label"].strip(),
        patient_id=row["patient_id"].strip(),
        source=row.get("source", "").strip(),
        view=row.get("view", "").strip(),
        age=age,
        sex=row.get("sex", "").strip(),
        split=split,
        width_px=None if width is None else int(width),
        height_px=None if height is None else int(height),
    )


def _number(text: str, where: str, name: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    # 0 is an age (the first year of life) and never a width.
    if not (0 <= value < 1e6) or (name != "age" and value < 1):
        raise _bad_field(where, name, expected="a positive number, or empty", came=repr(text))
    return value


def _bad_field(where: str, name: str, *, expected: str, came: str) -> IndexFormatError:
    return IndexFormatError(
        f"{where}: the field {name!r} is wrong", expected=expected, came=came, do="mend that line of the index"
    )
