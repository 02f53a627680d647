"""The tables of NIH ChestX-ray14 and of the RSNA challenge, which relabelled a part of it, to an index."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from firmware_bridge.errors import IndexFormatError
from toolkit.data.dicom_header import fill_from_dicom, parse_age
from toolkit.data.index import Index, Xray, absolute, read_csv
from toolkit.data.readers import SUFFIXES, patient_from_name
from toolkit.data.tables import on_disk_only, original_size, text_of, unknown_labels, warn_of_ages
from toolkit.progress import progress

log = logging.getLogger(__name__)
NIH_NORMAL = "No Finding"
RSNA_LABELS = {"Normal": "normal", "Lung Opacity": "pneumonia"}
RSNA_NEITHER = "No Lung Opacity / Not Normal"


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
        # The header has an unquoted comma, "OriginalImage[Width,Height]", and so two columns.
        width_px, height_px = original_size(cells.get("OriginalImage[Width", ""), cells.get("Height]", ""))
        row = Xray(
            path=found[name],
            label=labels[positive in findings],
            patient_id=cells["Patient ID"].strip() or patient_from_name(Path(name).stem),
            source=source,
            view=cells["View Position"].strip(),
            age=parse_age(cells["Patient Age"]),
            sex=cells["Patient Gender"].strip(),
            split=splits.get(name, ""),
            width_px=width_px,
            height_px=height_px,
        )
        rows.append(row)
        if row.age is None and cells["Patient Age"].strip():
            no_ages.append(cells["Patient Age"].strip())
    warn_of_ages(no_ages)
    return on_disk_only(rows, absent=absent, path=path, folder=images or path.parent)


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
        raise unknown_labels(path, unknown, {**RSNA_LABELS, RSNA_NEITHER: ""})
    filled = [fill_from_dicom(row, set_patient=False) for row in progress(rows.values(), "reading headers")]
    return on_disk_only(filled, absent=len(absent), path=path, folder=images or path.parent)


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
            splits.update(dict.fromkeys(text_of(folder / name).split(), split))
    return splits


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
