"""Tables to an index: a CSV with columns named by the user, and what readers of published tables share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from firmware_bridge.errors import ConfigError, IndexFormatError
from toolkit.data.dicom_header import parse_age
from toolkit.data.index import Index, Xray, absolute, plausible_size, read_csv
from toolkit.data.readers import SPLIT_OF_FOLDER, patient_from_name, require_two_classes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what; empty: the table has none."""

    path: str = "path"
    label: str = "label"
    patient: str = ""
    view: str = ""
    age: str = ""
    sex: str = ""
    split: str = ""
    width: str = ""
    height: str = ""

    def named(self) -> tuple[str, ...]:
        """The columns that the table must have."""
        return tuple(name for name in astuple(self) if name)


def guess_kind(source: Path) -> str:
    """What `source` is: "folders", "nih", "rsna", "chexpert" or "csv", by what it holds.

    Raises:
        IndexFormatError: a file that cannot be read.
    """
    if not source.is_file():
        return "folders"
    header = text_of(source)[:10_000].partition("\n")[0]
    if "Image Index" in header and "Finding Labels" in header:
        return "nih"
    if "Frontal/Lateral" in header and "No Finding" in header:
        return "chexpert"
    return "rsna" if header.strip().replace('"', "") == "patientId,class" else "csv"


def read_table(
    path: Path,
    *,
    columns: Columns | None = None,
    images: Path | None = None,
    labels: Mapping[str, str] | None = None,
    skip_unknown_labels: bool = False,
    source: str | None = None,
) -> Index:
    """Index any CSV with one row for each X-ray.

    Args:
        path: the CSV.
        columns: which column holds what. Without a patient column the file name tells the patient.
        images: folder that the paths start from; None: the CSV's own.
        labels: value in the table to label; None takes the values as they are.
        skip_unknown_labels: leave rows out whose label `labels` does not name; otherwise they are an error.
        source: name of the data set; None: the name of the CSV's folder.

    Raises:
        IndexFormatError: columns missing, unknown labels, empty fields, one class only, or no row.
    """
    columns = columns or Columns()
    if not columns.path or not columns.label:
        raise ConfigError(
            "a table needs a column of paths and one of labels",
            expected="a name for each",
            came=f"path {columns.path!r}, label {columns.label!r}",
            do="name them with --path-column and --label-column",
        )
    folder = absolute(images or path.parent)
    name = absolute(path).parent.name if source is None else source
    rows: list[Xray] = []
    unknown: dict[str, int] = {}
    no_ages: list[str] = []
    for line, cells in read_csv(path, required=columns.named()):
        value = cells[columns.label].strip()
        label = value if labels is None else labels.get(value)
        if label is None:
            unknown[value] = unknown.get(value, 0) + 1
            continue
        rows.append(_table_row(cells, columns, folder, label=label, source=name, where=f"{path}, line {line}"))
        if columns.age and rows[-1].age is None and cells[columns.age].strip():
            no_ages.append(cells[columns.age].strip())
    if unknown and not skip_unknown_labels:
        raise unknown_labels(path, unknown, labels or {})
    if unknown:
        examples = ", ".join(sorted(unknown)[:10])
        log.warning("%d rows with other labels are left out: %s", sum(unknown.values()), examples)
    warn_of_ages(no_ages)
    index = Index(tuple(rows))
    require_two_classes(index, str(path))
    return index


def _table_row(
    cells: Mapping[str, str], columns: Columns, folder: Path, *, label: str, source: str, where: str
) -> Xray:
    def cell(name: str) -> str:
        return cells[name].strip() if name else ""

    file, split = cells[columns.path], cell(columns.split).lower()
    patient = cell(columns.patient) if columns.patient else patient_from_name(Path(file.strip()).stem)
    if "\0" in file:
        raise IndexFormatError(
            f"{where}: the path holds a NUL byte", expected="a file name", came=repr(file), do="mend that line"
        )
    for field, value in (("path", file.strip()), ("label", label), ("patient", patient)):
        if not value:
            raise IndexFormatError(
                f"{where}: no {field}",
                expected=f"a {field} in every row",
                came="an empty cell",
                do=f"mend that line, or name another column with --{field}-column",
            )
    if split and split not in SPLIT_OF_FOLDER:
        raise IndexFormatError(
            f"{where}: unknown split",
            expected=", ".join(SPLIT_OF_FOLDER),
            came=split,
            do="mend that line, name another column with --split-column, or leave it out with --split-column ''",
        )
    width_px, height_px = original_size(cell(columns.width), cell(columns.height))
    return Xray(
        path=Path(os.path.normpath(folder / file)),
        label=label,
        patient_id=patient,
        source=source,
        view=cell(columns.view),
        age=parse_age(cell(columns.age)),
        sex=cell(columns.sex),
        split=SPLIT_OF_FOLDER.get(split, ""),
        width_px=width_px,
        height_px=height_px,
    )


def text_of(path: Path) -> str:
    """The text of a table or list; bytes that are no UTF-8 become question marks.

    Raises:
        IndexFormatError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise IndexFormatError(
            f"{path} cannot be read",
            expected="a text file that this user may read",
            came=error.strerror or str(error),
            do="check the path and its permissions",
        ) from error


def on_disk_only(rows: Iterable[Xray], *, absent: int, path: Path, folder: Path) -> Index:
    """The index of `rows`, with a word about the `absent` X-rays of the table `path` that are not below `folder`.

    Raises:
        IndexFormatError: none of them is there, or one class only.
    """
    index = Index(tuple(rows))
    if not index.rows and absent:
        raise IndexFormatError(
            f"none of the images of {path} is there",
            expected=f"{absent} image files somewhere below {folder}",
            came="none of them",
            do="name their folder with --images",
        )
    if absent:
        log.warning("%d X-rays of %s are not below %s and are left out", absent, path, folder)
    require_two_classes(index, str(path))
    return index


def unknown_labels(path: Path, unknown: Mapping[str, int], known: Mapping[str, str]) -> IndexFormatError:
    """The error that `path` has `unknown` labels (label to rows) beside those `known`."""
    return IndexFormatError(
        f"{path} has labels that are not known",
        expected=", ".join(map(repr, known)),
        came=", ".join(f"{label!r} ({n} rows)" for label, n in sorted(unknown.items())[:10]),
        do="add --label VALUE=LABEL for each, or --skip-unknown-labels to leave those rows out",
    )


def warn_of_ages(texts: Sequence[str]) -> None:
    """Say which cells of an age column are none."""
    if texts:
        examples = ", ".join(map(repr, sorted(set(texts))[:5]))
        log.warning("ages that are no number from 0 to 120 are left out: %d, for example %s", len(texts), examples)


def original_size(width: str, height: str) -> tuple[int | None, int | None]:
    """Width and height of the original in pixels, from cells; None for what is none, and for what no X-ray has."""
    width_px, height_px = (_whole_px(text) for text in (width, height))
    if width_px and height_px and not plausible_size(width_px, height_px):
        return None, None
    return width_px, height_px


def _whole_px(text: str) -> int | None:
    try:
        pixels = int(float(text))
    except (ValueError, OverflowError):
        return None
    return pixels if 0 < pixels < 1_000_000 else None
