"""Tables to an index: a CSV with columns named by the user, NIH ChestX-ray14's and the RSNA challenge's own."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from firmware_bridge.errors import ConfigError, IndexFormatError
from toolkit.data.dicom_header import fill_from_dicom, parse_age
from toolkit.data.index import Index, Xray, absolute, read_csv
from toolkit.data.readers import SPLIT_OF_FOLDER, SUFFIXES, patient_from_name, require_two_classes
from toolkit.progress import progress

log = logging.getLogger(__name__)
NIH_NORMAL = "No Finding"
RSNA_LABELS = {"Normal": "normal", "Lung Opacity": "pneumonia"}
RSNA_NEITHER = "No Lung Opacity / Not Normal"


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
    header = _text(source)[:10_000].partition("\n")[0]
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
        raise _unknown_labels(path, unknown, labels or {})
    if unknown:
        examples = ", ".join(sorted(unknown)[:10])
        log.warning("%d rows with other labels are left out: %s", sum(unknown.values()), examples)
    _warn_of_ages(no_ages)
    index = Index(tuple(rows))
    require_two_classes(index, str(path))
    return index


def read_nih(
    path: Path,
    *,
    images: Path | None = None,
    positive: str = "Pneumonia",
    labels: tuple[str, str] = ("normal", "pneumonia"),
    source: str = "nih",
) -> Index:
    """Index NIH ChestX-ray14 from its `Data_Entry_2017.csv` (Wang et al., CVPR 2017).

    Positive is every X-ray among whose findings is `positive`, negative is "No Finding"; all others are left out, and
    so are X-rays that are not on this disk. The labels were mined from reports by a program; radiologists who re-read
    them disagree with many. `test_list.txt` and `train_val_list.txt` beside the CSV give the official split.

    Args:
        path: the CSV.
        images: folder with the images in it, at any depth; None: the CSV's own.
        positive: the finding looked for.
        labels: the names of (negative, positive).
        source: name of the data set.

    Raises:
        IndexFormatError: columns missing, no image found, or one class only.
    """
    found = _files_below(absolute(images or path.parent))
    splits = _nih_splits(path.parent)
    rows, absent = [], 0
    no_ages: list[str] = []
    required = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
    for _, cells in read_csv(path, required=required):
        findings = cells["Finding Labels"].split("|")
        if positive not in findings and findings != [NIH_NORMAL]:
            continue
        name = cells["Image Index"]
        if name not in found:
            absent += 1
            continue
        row = Xray(
            path=found[name],
            label=labels[positive in findings],
            patient_id=cells["Patient ID"],
            source=source,
            view=cells["View Position"],
            age=parse_age(cells["Patient Age"]),
            sex=cells["Patient Gender"],
            split=splits.get(name, ""),
            # The header has an unquoted comma, "OriginalImage[Width,Height]", and so two columns.
            width_px=_whole(cells.get("OriginalImage[Width", "")),
            height_px=_whole(cells.get("Height]", "")),
        )
        rows.append(row)
        if row.age is None and cells["Patient Age"].strip():
            no_ages.append(cells["Patient Age"].strip())
    _warn_of_ages(no_ages)
    return _found(rows, absent, path, images)


def read_rsna(path: Path, *, images: Path | None = None, mapping: Path | None = None, source: str = "rsna") -> Index:
    """Index the RSNA pneumonia challenge from its `stage_2_detailed_class_info.csv` (Shih et al., Radiology: AI 2019).

    "Lung Opacity" is pneumonia, "Normal" is normal; "No Lung Opacity / Not Normal" is neither and left out. The CSV
    repeats an image for each of its boxes; it comes out once. The challenge's `patientId` numbers *images*: the same
    person of the NIH set has several. Only the published mapping to NIH's file names tells persons apart.

    Args:
        path: the CSV.
        images: folder with `PATIENTID.dcm` in it, at any depth; None: the CSV's own.
        mapping: `pneumonia-challenge-dataset-mappings_2018.json`, or None.
        source: name of the data set.

    Raises:
        IndexFormatError: columns missing, an unknown class, no image found, or one class only.
    """
    found = {Path(name).stem: file for name, file in _files_below(absolute(images or path.parent)).items()}
    persons = _rsna_persons(mapping) if mapping else {}
    if not mapping:
        log.warning("RSNA's patientId tells images apart, not persons: give --mapping to keep persons together")
    rows: dict[str, Xray] = {}
    unknown: dict[str, int] = {}
    absent: set[str] = set()
    for _, cells in read_csv(path, required=("patientId", "class")):
        image, kind = cells["patientId"], cells["class"]
        if kind not in RSNA_LABELS:
            unknown.update({} if kind == RSNA_NEITHER else {kind: unknown.get(kind, 0) + 1})
        elif image in found:
            patient = persons.get(image, image)
            rows[image] = Xray(path=found[image], label=RSNA_LABELS[kind], patient_id=patient, source=source)
        else:
            absent.add(image)
    if unknown:
        raise _unknown_labels(path, unknown, {**RSNA_LABELS, RSNA_NEITHER: ""})
    filled = [fill_from_dicom(row, set_patient=False) for row in progress(rows.values(), "reading headers")]
    return _found(filled, len(absent), path, images)


def _table_row(
    cells: Mapping[str, str], columns: Columns, folder: Path, *, label: str, source: str, where: str
) -> Xray:
    def cell(name: str) -> str:
        return cells[name].strip() if name else ""

    file, split = cells[columns.path], cell(columns.split).lower()
    patient = cell(columns.patient) if columns.patient else patient_from_name(Path(file).stem)
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
    return Xray(
        path=Path(os.path.normpath(folder / file)),
        label=label,
        patient_id=patient,
        source=source,
        view=cell(columns.view),
        age=parse_age(cell(columns.age)),
        sex=cell(columns.sex),
        split=SPLIT_OF_FOLDER.get(split, ""),
        width_px=_whole(cell(columns.width)),
        height_px=_whole(cell(columns.height)),
    )


def _files_below(folder: Path) -> dict[str, Path]:
    # NIH's images come in twelve folders; one walk finds each, where a search by name would walk for every row.
    return {
        name: Path(parent) / name
        for parent, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES
    }


def _nih_splits(folder: Path) -> dict[str, str]:
    splits = {}
    for name, split in (("train_val_list.txt", "train"), ("test_list.txt", "test")):
        if (folder / name).is_file():
            splits.update(dict.fromkeys(_text(folder / name).split(), split))
    return splits


def _text(path: Path) -> str:
    """The text of a table or list; bytes that are no UTF-8 become question marks."""
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise IndexFormatError(
            f"{path} cannot be read",
            expected="a text file that this user may read",
            came=error.strerror or str(error),
            do="check the path and its permissions",
        ) from error


def _rsna_persons(mapping: Path) -> dict[str, str]:
    try:
        entries = json.loads(mapping.read_text(encoding="utf-8"))
        return {entry["subset_img_id"]: patient_from_name(Path(entry["img_id"]).stem) for entry in entries}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise IndexFormatError(
            f"{mapping} is not RSNA's mapping to NIH",
            expected="a JSON list whose entries have subset_img_id and img_id",
            came=f"{type(error).__name__}: {error}",
            do="take pneumonia-challenge-dataset-mappings_2018.json from the challenge's page, or leave it out",
        ) from error


def _found(rows: Iterable[Xray], absent: int, path: Path, images: Path | None) -> Index:
    index = Index(tuple(rows))
    folder = images or path.parent
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


def _unknown_labels(path: Path, unknown: Mapping[str, int], known: Mapping[str, str]) -> IndexFormatError:
    return IndexFormatError(
        f"{path} has labels that are not known",
        expected=", ".join(map(repr, known)),
        came=", ".join(f"{label!r} ({n} rows)" for label, n in sorted(unknown.items())[:10]),
        do="add --label VALUE=LABEL for each, or --skip-unknown-labels to leave those rows out",
    )


def _warn_of_ages(texts: list[str]) -> None:
    if texts:
        examples = ", ".join(map(repr, sorted(set(texts))[:5]))
        log.warning("ages that are no number from 0 to 120 are left out: %d, for example %s", len(texts), examples)


def _whole(text: str) -> int | None:
    """A side in pixels; None for what is none."""
    try:
        pixels = int(float(text))
    except (ValueError, OverflowError):
        return None
    return pixels if pixels > 0 else None
