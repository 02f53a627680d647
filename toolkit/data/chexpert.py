"""CheXpert's `train.csv` and `valid.csv` to an index (Irvin et al., AAAI 2019)."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from firmware_bridge.errors import IndexFormatError
from toolkit.data.dicom_header import parse_age
from toolkit.data.index import Index, Xray, absolute, read_csv
from toolkit.data.tables import on_disk_only

log = logging.getLogger(__name__)
NO_FINDING = "No Finding"
_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", NO_FINDING)
_SEX = {"Female": "F", "Male": "M"}
_PATIENT = re.compile(r"patient\d+")


def read_chexpert(
    path: Path,
    *,
    images: Path | None = None,
    positive: str = "Pneumonia",
    labels: tuple[str, str] = ("normal", "pneumonia"),
    source: str = "chexpert",
) -> Index:
    """Index frontal X-rays: positive where `positive` is 1, negative where "No Finding" is 1.

    A program mined the labels from reports; -1 says that the report was unsure. Those, laterals, X-rays with other
    findings alone and X-rays that are not on this disk are left out. Radiologists labelled `valid`: its rows become the
    split "test", those of `train` get none.

    Args:
        path: the CSV.
        images: folder that the paths of the CSV start from, with or without their first folder; None: the CSV's own.
        positive: the column of the finding looked for, such as "Pneumonia", "Lung Opacity" or "Consolidation".
        labels: the names of (negative, positive).
        source: name of the data set.

    Raises:
        IndexFormatError: columns missing, no image found, a path without a patient, or one class only.
    """
    folder = absolute(images or path.parent)
    rows: list[Xray] = []
    absent = unsure = 0
    for line, cells in read_csv(path, required=(*_COLUMNS, positive)):
        if cells["Frontal/Lateral"] == "Lateral":
            continue
        found, nothing = _value(cells[positive]), _value(cells[NO_FINDING])
        unsure += found == -1
        if found != 1 and not (nothing == 1 and found in (None, 0)):
            continue
        file = _on_disk(folder, cells["Path"])
        if file is None:
            absent += 1
            continue
        patient = _PATIENT.search(cells["Path"])
        if patient is None:
            raise IndexFormatError(
                f"{path}, line {line}: no patient in the path",
                expected="a folder patientNUMBER in it",
                came=cells["Path"],
                do="take CheXpert's own CSV, or read this one with --kind csv",
            )
        rows.append(
            Xray(
                path=file,
                label=labels[found == 1],
                patient_id=patient[0],
                source=source,
                view=cells["AP/PA"].strip() if cells["AP/PA"].strip() in ("AP", "PA") else "",
                age=parse_age(cells["Age"]),
                sex=_SEX.get(cells["Sex"], ""),
                split="test" if "/valid/" in f"/{cells['Path']}" else "",
            )
        )
    if unsure:
        log.warning("%d X-rays whose report was unsure of %s are left out", unsure, positive)
    return on_disk_only(rows, absent=absent, path=path, folder=folder)


def _value(cell: str) -> int | None:
    """1, 0, -1 (unsure), or None where the report says nothing."""
    try:
        return int(float(cell))
    except (ValueError, OverflowError):
        return None


def _on_disk(folder: Path, named: str) -> Path | None:
    # Paths begin with the archive's own folder, which the images may or may not still lie in.
    for candidate in (folder / named, folder / Path(*Path(named).parts[1:])):
        if candidate.is_file():
            return candidate
    return None
