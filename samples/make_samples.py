"""Make the sample X-rays of this folder from the Kermany 2018 set (CC BY 4.0).

    CXR_EDGE_DATA=/path/to/data python samples/make_samples.py

`CXR_EDGE_DATA` holds `kermany/manifest.csv`, `kermany/images/` (grey JPEG, squashed to 224x224) and
`near_duplicates.csv`. The choice depends on nothing but the names, so the same data gives the same samples.
"""

from __future__ import annotations

import csv
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

HERE = Path(__file__).resolve().parent
LONG_SIDE_PX = 320
JPEG_QUALITY = 90
# Of each class; one X-ray a patient, so the splits cannot share one.
PER_SPLIT = {"train": 20, "validation": 6, "test": 6}
FOLDER_OF_SPLIT = {"train": "train", "validation": "val", "test": "test"}
COLUMNS = ("path", "label", "patient_id", "source", "view", "age", "sex", "split", "width_px", "height_px")
Row = dict[str, str]


def main() -> None:
    """Write `chest_xray/`, `dicom/` and `index.csv` beside this file."""
    data = Path(os.environ["CXR_EDGE_DATA"])
    rows = []
    for split, source in choose(data):
        target = _target(split, source)
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(np.rint(stretch(data, source)), 0, 255).astype(np.uint8)  # (H, W) uint8
        ok, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        assert ok
        target.write_bytes(encoded.tobytes())
        rows.append(_index_row(split, source, target))
    with (HERE / "index.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["path"]))
    _write_dicoms(data)
    sys.stdout.write(f"{len(rows)} X-rays in {HERE}\n")


def choose(data: Path) -> Iterator[tuple[str, Row]]:
    """Yield (split, row of the manifest): both classes, half the pneumonia viral, no patient and no picture twice."""
    with (data / "kermany" / "manifest.csv").open(encoding="utf-8", newline="") as file:
        manifest = list(csv.DictReader(file))
    with (data / "near_duplicates.csv").open(encoding="utf-8", newline="") as file:
        pairs = list(csv.DictReader(file))
    doubtful = {p[f"id_{side}"] for p in pairs for side in "ab" if p[f"src_{side}"] == "kermany"}
    usable = [row for row in manifest if row["true_width"] and row["image_id"] not in doubtful]
    # Ordered by a hash of the name: neither the file numbers nor the official split decide what is taken.
    usable.sort(key=lambda row: hashlib.sha256(row["image_id"].encode()).hexdigest())
    patients: set[str] = set()
    hands: dict[str, list[Row]] = {}
    for row in usable:
        if row["patient_id"] not in patients:
            patients.add(row["patient_id"])
            hands.setdefault(row["subtype"] or "normal", []).append(row)
    for split, n in PER_SPLIT.items():
        for kind, take in (("normal", n), ("bacteria", n // 2), ("virus", n // 2)):
            for _ in range(take):
                yield split, hands[kind].pop(0)


def stretch(data: Path, row: Row) -> npt.NDArray[np.float32]:
    """The X-ray in its true aspect, long side `LONG_SIDE_PX`: (H, W) float32, grey levels about 0..255."""
    squashed = cv2.imread(str(data / "kermany" / row["path"]), cv2.IMREAD_GRAYSCALE)
    assert squashed is not None
    width, height = int(row["true_width"]), int(row["true_height"])
    scale = LONG_SIDE_PX / max(width, height)
    size = (round(width * scale), round(height * scale))
    return np.asarray(cv2.resize(squashed.astype(np.float32), size, interpolation=cv2.INTER_CUBIC), np.float32)


def _target(split: str, row: Row) -> Path:
    return HERE / "chest_xray" / FOLDER_OF_SPLIT[split] / row["label"].upper() / f"{row['image_id']}.jpg"


def _index_row(split: str, row: Row, target: Path) -> Row:
    # The source gives ages only as "1-5 years" for all, and no sex: both stay empty.
    return {
        "path": target.relative_to(HERE).as_posix(),
        "label": row["label"],
        "patient_id": row["patient_id"],
        "source": "kermany",
        "view": row["view"],
        "age": "",
        "sex": "",
        "split": split,
        "width_px": row["true_width"],
        "height_px": row["true_height"],
    }


def _write_dicoms(data: Path) -> None:
    test = [row for split, row in choose(data) if split == "test"]
    normal = next(row for row in test if row["label"] == "normal")
    pneumonia = next(row for row in test if row["label"] == "pneumonia")
    (HERE / "dicom").mkdir(exist_ok=True)
    grey = stretch(data, normal)
    digital = _dataset("ONE", DigitalXRayImageStorageForPresentation, "DX")
    _set_pixels(digital, np.clip(np.rint(grey), 0, 255).astype(np.uint8), bits=8, inverse=False)
    digital.save_as(HERE / "dicom" / "normal_dx_monochrome2.dcm", enforce_file_format=True)
    grey = stretch(data, pneumonia)
    levels = np.clip(np.rint(grey * (4095 / 255)), 0, 4095).astype(np.uint16)
    computed = _dataset("TWO", ComputedRadiographyImageStorage, "CR")
    _set_pixels(computed, np.asarray(4095 - levels, np.uint16), bits=12, inverse=True)
    computed.save_as(HERE / "dicom" / "pneumonia_cr_monochrome1_12bit.dcm", enforce_file_format=True)


def _dataset(name: str, sop_class: str, modality: str) -> Dataset:
    """Everything but the pixels, of a patient who does not exist (DICOM PS3.3 A.2 and A.26)."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID(sop_class)
    uids = {part: generate_uid(entropy_srcs=["cxr-edge sample", name, part]) for part in ("study", "series", "image")}
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = uids["image"]
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uids["study"], uids["series"]
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.PatientName, ds.PatientID = f"SAMPLE^{name}", f"SAMPLE-{name}"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "20000101", "O", "004Y"
    ds.StudyDate = ds.ContentDate = "20040101"
    ds.StudyTime = ds.ContentTime = "120000"
    ds.AccessionNumber = ds.ReferringPhysicianName = ds.StudyID = ""
    ds.Manufacturer = "SAMPLE"
    ds.SeriesNumber = ds.InstanceNumber = "1"
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = modality, "CHEST", "AP"
    ds.ImageComments = "Kermany 2018, CC BY 4.0, modified; patient data invented. Not for diagnosis."
    if modality == "DX":
        ds.PresentationIntentType = "FOR PRESENTATION"
        ds.ImageLaterality = "U"
        ds.PatientOrientation = ["L", "F"]
        # Sign -1: the higher the value, the less radiation came through (bones bright; PS3.3, C.8.11.3).
        ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", "ISO_10918_1"
    ds.LossyImageCompressionRatio = "5"
    ds.BurnedInAnnotation = "NO"
    return ds


def _set_pixels(ds: Dataset, stored: npt.NDArray[np.uint8 | np.uint16], *, bits: int, inverse: bool) -> None:
    ds.Rows, ds.Columns = stored.shape
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME1" if inverse else "MONOCHROME2"
    ds.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = stored.dtype.itemsize * 8, bits, bits - 1
    ds.PixelRepresentation = 0
    ds.WindowCenter, ds.WindowWidth = str(2 ** (bits - 1)), str(2**bits)
    raw = stored.tobytes()
    # DICOM elements have an even length (PS3.5, 7.1.1).
    ds.add_new("PixelData", "OW" if bits > 8 else "OB", raw + b"\0" * (len(raw) % 2))


if __name__ == "__main__":
    main()
