"""Report and capture as DICOM objects: what they say, whom they name, and that they are always the same."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from firmware_bridge.decode import decode
from firmware_bridge.dicom_capture import build_capture
from firmware_bridge.dicom_objects import Origin, keyed_uid, read_origin
from firmware_bridge.dicom_report import build_report
from firmware_bridge.errors import UnreadableImage
from firmware_bridge.result import NOTICE
from tests.end_to_end.dcmtk import identified, run, told

KEY = b"k" * 32
RECORD: dict[str, Any] = {
    "id": "31bf2e3229cd085f47f883ca4733b6ceaf87d1b6c4b83b8f571800be7bfb5279",
    "time": "2026-11-23T15:07:27.219Z",
    "bundle": {"id": "bc081ae3d6b83d1f6510973a983dfc67c54ebda34bb47ff4c224396fd1d47fec", "name": "demo"},
    "label_positive": "pneumonia",
    "probability": 0.440411,
    "threshold": 0.4374659689422829,
    "decision": "positive",
}


@pytest.fixture
def source(samples: Path, tmp_path: Path) -> Path:
    path = tmp_path / "source.dcm"
    identified(samples / "dicom" / "pneumonia_cr_monochrome1_12bit.dcm", path)
    return path


def origin_of(source: Path, *, patient: bool) -> Origin:
    return read_origin(source.read_bytes(), key=KEY, patient=patient)


def both(source: Path, *, patient: bool) -> list[bytes]:
    origin = origin_of(source, patient=patient)
    picture = decode(source).pixels
    return [
        build_report(origin, RECORD, key=KEY, device="cxr-1"),
        build_capture(origin, RECORD, picture, key=KEY, device="cxr-1"),
    ]


def test_they_join_the_study_of_the_x_ray_and_its_patient(source: Path) -> None:
    x_ray = pydicom.dcmread(source)
    for content in both(source, patient=True):
        made = pydicom.dcmread(io.BytesIO(content))
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "AccessionNumber"):
            assert made[keyword].value == x_ray[keyword].value
        assert made.SeriesInstanceUID != x_ray.SeriesInstanceUID
        assert "NOT FOR DIAGNOSIS" in made.SeriesDescription


def test_unless_asked_for_they_name_nobody_and_nothing_that_leads_back(source: Path) -> None:
    x_ray = pydicom.dcmread(source)
    for content in both(source, patient=False):
        assert told(content) == []
        for uid in (x_ray.SOPInstanceUID, x_ray.StudyInstanceUID):
            assert uid.encode() not in content
        made = pydicom.dcmread(io.BytesIO(content))
        assert made.StudyInstanceUID == keyed_uid(KEY, "stand-in", x_ray.StudyInstanceUID)


def test_the_same_result_gives_the_same_objects(source: Path) -> None:
    assert both(source, patient=True) == both(source, patient=True)
    report, capture = (pydicom.dcmread(io.BytesIO(content)) for content in both(source, patient=True))
    assert report.SOPInstanceUID != capture.SOPInstanceUID


def walk(items: Any) -> list[Any]:
    return [one for item in items for one in (item, *walk(item.get("ContentSequence", [])))]


def test_the_report_says_what_the_record_says(source: Path) -> None:
    content, _ = both(source, patient=True)
    report = pydicom.dcmread(io.BytesIO(content))
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    items = {
        item.ConceptNameCodeSequence[0].CodeMeaning: item
        for item in walk(report.ContentSequence)
        if "ConceptNameCodeSequence" in item
    }
    number = items["Certainty of Finding"].MeasuredValueSequence[0]
    assert float(number.NumericValue) == pytest.approx(100 * RECORD["probability"], abs=1e-3)
    assert number.MeasurementUnitsCodeSequence[0].CodeValue == "%"
    threshold = items["Threshold of the decision"].MeasuredValueSequence[0]
    assert float(threshold.NumericValue) == pytest.approx(100 * RECORD["threshold"], abs=1e-3)
    assert items["Finding"].ConceptCodeSequence[0].CodeValue == "233604007"
    assert items["Algorithm Version"].TextValue == RECORD["bundle"]["id"]
    assert items["Decision"].TextValue.startswith("positive for pneumonia")
    assert NOTICE in items["Decision"].TextValue
    x_ray = pydicom.dcmread(source)
    assert items["Source of Measurement"].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == x_ray.SOPInstanceUID
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    assert evidence.StudyInstanceUID == x_ray.StudyInstanceUID


@pytest.mark.parametrize("patient", [True, False])
def test_dcmtk_reads_the_report(source: Path, tmp_path: Path, patient: bool) -> None:
    content, _ = both(source, patient=patient)
    path = tmp_path / "report.dcm"
    path.write_bytes(content)
    shown = run("dsr2html", path)
    assert shown.returncode == 0, shown.stderr
    for text in ("Imaging Measurement Report", "Certainty of Finding", "44.0411", NOTICE, "Pneumonia", "UNVERIFIED"):
        assert text in shown.stdout
    assert ("Sichelschmidt" in shown.stdout) is patient
    assert run("dcmdump", "-q", path).returncode == 0


def test_dcmtk_shows_the_capture(source: Path, tmp_path: Path) -> None:
    _, content = both(source, patient=False)
    path = tmp_path / "capture.dcm"
    path.write_bytes(content)
    assert run("dcm2pnm", "+on", path, tmp_path / "capture.png").returncode == 0
    capture = pydicom.dcmread(path)
    assert (capture.BurnedInAnnotation, capture.ConversionType) == ("YES", "WSD")
    strip = capture.pixel_array[-100:]
    yellow = (strip[:, :, 0] > 200) & (strip[:, :, 2] < 80)
    assert yellow.sum() > 500  # the notice


@pytest.mark.parametrize("shape", [(40, 40), (3000, 200), (200, 3000), (2000, 2500, 3)])
def test_a_capture_of_any_shape_is_made(source: Path, shape: tuple[int, ...]) -> None:
    content = build_capture(
        origin_of(source, patient=False), RECORD, np.zeros(shape, np.uint8), key=KEY, device="cxr-1"
    )
    capture = pydicom.dcmread(io.BytesIO(content))
    assert max(capture.Rows - 114, capture.Columns) <= 1024
    assert capture.pixel_array.shape == (capture.Rows, capture.Columns, 3)


def test_labels_of_any_script_go_into_a_report(source: Path) -> None:
    record = {**RECORD, "label_positive": "肺炎 Lungenentzündung", "bundle": {"id": "0" * 64, "name": "Größe"}}
    report = pydicom.dcmread(io.BytesIO(build_report(origin_of(source, patient=True), record, key=KEY, device="d")))
    assert "Lungenentz" in json.dumps(report.to_json_dict())


def test_a_patient_in_another_script_stays_readable(source: Path, tmp_path: Path) -> None:
    x_ray = pydicom.dcmread(source)
    x_ray.SpecificCharacterSet = "ISO_IR 192"
    x_ray.PatientName = "山田^太郎"
    path = tmp_path / "utf8.dcm"
    x_ray.save_as(path)
    report = pydicom.dcmread(io.BytesIO(build_report(origin_of(path, patient=True), RECORD, key=KEY, device="cxr-1")))
    assert report.PatientName == "山田^太郎"


def test_an_x_ray_without_uids_cannot_be_referred_to(source: Path, tmp_path: Path) -> None:
    x_ray = pydicom.dcmread(source)
    del x_ray.StudyInstanceUID
    path = tmp_path / "none.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x_ray.save_as(path)
    with pytest.raises(UnreadableImage):
        origin_of(path, patient=True)
