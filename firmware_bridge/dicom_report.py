"""A result as a DICOM Structured Report: TID 1500 Measurement Report (PS3.16) in a Comprehensive SR (PS3.3 A.35.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage

from firmware_bridge.dicom_objects import MANUFACTURER, Origin, dump_object, keyed_uid, new_object, plain
from firmware_bridge.result import NOTICE

_OWN = "99CXREDGE"  # the scheme of codes that no standard has (PS3.16, 8.2: private schemes begin with 99)
Code = tuple[str, str, str]
_CHEST_X_RAY = ("399208008", "SCT", "Plain X-ray of chest")
_PERCENT = ("%", "UCUM", "percent")


def build_report(origin: Origin, record: Mapping[str, Any], *, key: bytes, device: str) -> bytes:
    """The report of one result, as a DICOM file.

    Args:
        origin: the X-ray.
        record: its result; one that was scored.
        key: of the device.
        device: its name.
    """
    report = new_object(
        origin, record, key=key, kind="report", sop_class=ComprehensiveSRStorage, modality="SR", device=device
    )
    report.ReferencedPerformedProcedureStepSequence = []
    report.PerformedProcedureCodeSequence = []
    report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    report.CurrentRequestedProcedureEvidenceSequence = [_evidence(origin)]
    root = _container(("126000", "DCM", "Imaging Measurement Report"), _content(origin, record, key, device))
    root.ContentTemplateSequence = [_dataset(MappingResource="DCMR", TemplateIdentifier="1500")]
    del root.RelationshipType
    report.update(root)
    return dump_object(report)


def _content(origin: Origin, record: Mapping[str, Any], key: bytes, device: str) -> list[Dataset]:
    name, version = plain(record["bundle"]["name"], most=64), record["bundle"]["id"]
    observer = [
        _coded("HAS OBS CONTEXT", ("121005", "DCM", "Observer Type"), ("121007", "DCM", "Device")),
        _uid("HAS OBS CONTEXT", ("121012", "DCM", "Device Observer UID"), keyed_uid(key, "device")),
        _text("HAS OBS CONTEXT", ("121013", "DCM", "Device Observer Name"), device),
        _text("HAS OBS CONTEXT", ("121014", "DCM", "Device Observer Manufacturer"), MANUFACTURER),
        _text("HAS OBS CONTEXT", ("121015", "DCM", "Device Observer Model Name"), f"cxr-edge bundle {name}"),
    ]
    group = _container(
        ("125007", "DCM", "Measurement Group"),
        [
            _text("HAS OBS CONTEXT", ("112039", "DCM", "Tracking Identifier"), plain(record["id"])),
            _uid("HAS OBS CONTEXT", ("112040", "DCM", "Tracking Unique Identifier"), keyed_uid(key, record["id"])),
            _coded("CONTAINS", ("121071", "DCM", "Finding"), _finding(record["label_positive"])),
            _text("HAS CONCEPT MOD", ("111001", "DCM", "Algorithm Name"), f"cxr-edge {name}"),
            _text("HAS CONCEPT MOD", ("111003", "DCM", "Algorithm Version"), version),
            _number(("111012", "DCM", "Certainty of Finding"), record["probability"], origin),
            _number(("threshold", _OWN, "Threshold of the decision"), record["threshold"], origin),
            _text("CONTAINS", ("decision", _OWN, "Decision"), _decision(record)),
        ],
    )
    return [
        _coded(
            "HAS CONCEPT MOD",
            ("121049", "DCM", "Language of Content Item and Descendants"),
            ("en-US", "RFC5646", "English (United States)"),
        ),
        *observer,
        _coded("HAS CONCEPT MOD", ("121058", "DCM", "Procedure reported"), _CHEST_X_RAY),
        _container(("111028", "DCM", "Image Library"), [_image("CONTAINS", None, origin)]),
        _container(("126010", "DCM", "Imaging Measurements"), [group]),
        _container(
            ("C0034375", "UMLS", "Qualitative Evaluations"),
            [_text("CONTAINS", ("121106", "DCM", "Comment"), NOTICE)],
        ),
    ]


def _decision(record: Mapping[str, Any]) -> str:
    side = "at or above" if record["decision"] == "positive" else "below"
    return plain(f"{record['decision']} for {record['label_positive']} ({side} the threshold). {NOTICE}")


def _finding(label: str) -> Code:
    if label.lower() == "pneumonia":
        return ("233604007", "SCT", "Pneumonia")
    return (plain(label, most=16), _OWN, plain(label, most=64))


def _evidence(origin: Origin) -> Dataset:
    image = _dataset(ReferencedSOPClassUID=origin.sop_class, ReferencedSOPInstanceUID=origin.instance)
    series = _dataset(SeriesInstanceUID=origin.series, ReferencedSOPSequence=[image])
    return _dataset(StudyInstanceUID=origin.study, ReferencedSeriesSequence=[series])


def _dataset(**elements: Any) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def _code(code: Code) -> list[Dataset]:
    value, scheme, meaning = code
    return [_dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)]


def _item(relationship: str, kind: str, concept: Code | None, **elements: Any) -> Dataset:
    """One content item (PS3.3 C.17.3)."""
    item = _dataset(RelationshipType=relationship, ValueType=kind, **elements)
    if concept is not None:
        item.ConceptNameCodeSequence = _code(concept)
    return item


def _container(concept: Code, content: Sequence[Dataset]) -> Dataset:
    return _item("CONTAINS", "CONTAINER", concept, ContinuityOfContent="SEPARATE", ContentSequence=list(content))


def _text(relationship: str, concept: Code, text: str) -> Dataset:
    return _item(relationship, "TEXT", concept, TextValue=text)


def _coded(relationship: str, concept: Code, value: Code) -> Dataset:
    return _item(relationship, "CODE", concept, ConceptCodeSequence=_code(value))


def _uid(relationship: str, concept: Code, uid: str) -> Dataset:
    return _item(relationship, "UIDREF", concept, UID=uid)


def _image(relationship: str, concept: Code | None, origin: Origin) -> Dataset:
    image = _dataset(ReferencedSOPClassUID=origin.sop_class, ReferencedSOPInstanceUID=origin.instance)
    return _item(relationship, "IMAGE", concept, ReferencedSOPSequence=[image])


def _number(concept: Code, share: float, origin: Origin) -> Dataset:
    """A share of one in percent, with the X-ray that it was measured on (TID 300, TID 320)."""
    value = _dataset(NumericValue=f"{100 * share:.4f}", MeasurementUnitsCodeSequence=_code(_PERCENT))
    source = _image("INFERRED FROM", ("121112", "DCM", "Source of Measurement"), origin)
    return _item("CONTAINS", "NUM", concept, MeasuredValueSequence=[value], ContentSequence=[source])
