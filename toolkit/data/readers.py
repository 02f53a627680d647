"""Folders of classes to an index, and what file names tell of patients. Tables are read by `tables`."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from firmware_bridge.errors import ConfigError, IndexFormatError
from toolkit.data.dicom_header import fill_from_dicom
from toolkit.data.index import Index, Xray, absolute
from toolkit.progress import progress

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".dcm", ".dicom", ".dic"})
SPLIT_OF_FOLDER = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
# Archives made on a Mac hold a shadow of every file, with the suffix of an image and no image in it.
SHADOW_FOLDER = "__MACOSX"
_KERMANY_PNEUMONIA = re.compile(r"(person\d+)_(bacteria|virus)_\d+(?:_\d+)?$")
_KERMANY_NORMAL = re.compile(r"((?:NORMAL\d+-)?IM-\d+)-\d+(?:-\d+)?$")
_NIH = re.compile(r"(\d{8})_\d{3}$")


def kermany_patient_ids(stem: str) -> tuple[str, str] | None:
    """The patient in a file name of Kermany 2018, as (safe id, id with the type of pneumonia); None for other names.

    `person3_bacteria_10` and `person3_virus_15` need not be one child: the numbers run separately for bacteria and
    virus. Nothing proves that they are two, either. The safe id, `person3`, keeps them on one side of a split.
    """
    if match := _KERMANY_PNEUMONIA.match(stem):
        return match[1], f"{match[1]}_{match[2]}"
    if match := _KERMANY_NORMAL.match(stem):
        return match[1], match[1]
    return None


def patient_from_name(stem: str) -> str:
    """The patient that a file name tells: Kermany's safe id, NIH's number, else the whole stem (everyone a patient)."""
    if ids := kermany_patient_ids(stem):
        return ids[0]
    if match := _NIH.match(stem):
        return str(int(match[1]))
    return stem.strip() or "unnamed"


def read_class_folders(
    root: Path,
    *,
    labels: Mapping[str, str] | None = None,
    patient_pattern: str | None = None,
    source: str | None = None,
) -> Index:
    """Index `[SPLIT/]CLASS/.../image`, as in Kermany's `chest_xray/train/NORMAL/IM-0115-0001.jpeg`.

    The class is the folder below a split folder (train, val, test, ...), or, without one, the first folder below
    `root`; deeper folders do not matter. Hidden files and what is no JPEG, PNG, TIFF or DICOM by its name are left out.

    Args:
        root: the folder of classes or of splits, or one that holds only that folder.
        labels: folder name to label; None takes the names in lower case. A folder it does not name is an error.
        patient_pattern: regular expression, searched in the path below the class; its first group is the patient.
            None: what `patient_from_name` finds.
        source: name of the data set; None: the name of `root`.

    Raises:
        IndexFormatError: no folder, no image, no class, only one class, or an unknown class.
        ConfigError: the pattern has no group, or is not a regular expression.
    """
    pattern = _compiled(patient_pattern)
    root = absolute(root)
    name = root.name if source is None else source
    rows = [_row(path, root, name, pattern) for path in _images(root)]
    if any(row.split for row in rows):
        # Beside train/ and test/ a folder is not a class but something else that lies there.
        rows = [row if row.split else replace(row, label="") for row in rows]
    if stray := [row.path for row in rows if not row.label]:
        log.warning("in no class folder and left out: %d images, for example %s", len(stray), stray[0])
    classed = [row for row in rows if row.label]
    rows = [fill_from_dicom(row, set_patient=pattern is None) for row in progress(classed, "reading headers")]
    if not rows:
        raise IndexFormatError(
            f"{root} holds no X-ray in a class folder",
            expected="files such as train/NORMAL/1.jpeg or NORMAL/1.png (" + ", ".join(sorted(SUFFIXES)) + ")",
            came="not one image" if not stray else f"{len(stray)} images outside class folders",
            do="put each class into a folder of its own, or index a table with --kind csv",
        )
    index = _labelled(Index(tuple(rows)), labels, root)
    require_two_classes(index, str(root))
    return index


def require_two_classes(index: Index, where: str) -> None:
    """Raise `IndexFormatError` unless there are at least two classes: there is nothing to learn or to audit."""
    found = index.labels()
    if len(found) < 2:
        raise IndexFormatError(
            f"{where} has one class only",
            expected="at least two classes, for example normal and pneumonia",
            came=f"{len(index)} X-rays, all {found[0]!r}" if found else "no X-ray",
            do="give the folder or table that holds the other class too",
        )


def _images(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        raise IndexFormatError(
            f"{root} cannot be indexed",
            expected="a folder of classes, or a CSV",
            came="no such folder" if not root.exists() else "a file",
            do="check the path; for a table say --kind csv",
        )

    def fail(error: OSError) -> None:
        raise IndexFormatError(
            f"{error.filename} cannot be listed",
            expected="a folder that may be read",
            came=error.strerror or str(error),
            do="mend its permissions: a part of the data would be missing without a word",
        ) from error

    for folder, folders, files in os.walk(root, onerror=fail):
        # Sorted in place, so that the walk and with it the index are the same on every file system.
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != SHADOW_FOLDER)
        for file in sorted(files):
            if not file.startswith(".") and Path(file).suffix.lower() in SUFFIXES:
                yield Path(folder) / file


def _row(path: Path, root: Path, source: str, pattern: re.Pattern[str] | None) -> Xray:
    folders = path.relative_to(root).parts[:-1]
    at = next((i for i, folder in enumerate(folders) if folder.lower() in SPLIT_OF_FOLDER), None)
    split = "" if at is None else SPLIT_OF_FOLDER[folders[at].lower()]
    below = folders if at is None else folders[at + 1 :]
    label = below[0].strip() if below else ""
    inside = Path(*below[1:], path.name).as_posix()
    patient = patient_from_name(path.stem) if pattern is None else _matched(pattern, inside, path)
    return Xray(path=path, label=label, patient_id=patient, source=source, split=split)


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise _bad_pattern(pattern, str(error)) from error
    if compiled.groups < 1:
        raise _bad_pattern(pattern, "a pattern without a group")
    return compiled


def _bad_pattern(pattern: str, came: str) -> ConfigError:
    return ConfigError(
        f"the patient pattern {pattern!r} cannot be used",
        expected="a regular expression whose first group is the patient",
        came=came,
        do=r"for example --patient-pattern '^(\d+)_'",
    )


def _matched(pattern: re.Pattern[str], inside: str, path: Path) -> str:
    match = pattern.search(inside)
    if not match or not (match[1] or "").strip():
        raise IndexFormatError(
            f"{path} tells no patient",
            expected=f"a name that {pattern.pattern!r} finds a patient in",
            came=repr(inside),
            do="widen --patient-pattern; an X-ray of an unknown patient cannot be kept apart",
        )
    return match[1].strip()


def _labelled(index: Index, labels: Mapping[str, str] | None, root: Path) -> Index:
    if labels is None:
        return index.with_rows(replace(row, label=row.label.lower()) for row in index)
    known = {name.lower(): label for name, label in labels.items()}
    unknown = sorted({row.label for row in index if row.label.lower() not in known})
    if unknown:
        raise IndexFormatError(
            f"{root} has classes that no --label names",
            expected=", ".join(labels),
            came=", ".join(unknown),
            do="add --label FOLDER=LABEL for each, or move the folder away",
        )
    return index.with_rows(replace(row, label=known[row.label.lower()]) for row in index)
