"""A result as a picture that every viewer shows: a Secondary Capture (PS3.3 A.8.1) with overlay and notice in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from firmware_bridge.dicom_objects import Origin, dump_object, new_object, plain
from firmware_bridge.result import NOTICE

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_SIDE_PX = 1024
_LINE_PX = 26
_SCALE = 0.55
_WHITE, _YELLOW = (255, 255, 255), (255, 220, 0)


def build_capture(
    origin: Origin, record: Mapping[str, Any], picture: NDArray[np.uint8], *, key: bytes, device: str
) -> bytes:
    """The picture of one result, as a DICOM file.

    Args:
        origin: the X-ray.
        record: its result; one that was scored.
        picture: (H, W) grey or (H, W, 3) RGB, uint8: the X-ray, with the overlay where there is one.
        key: of the device.
        device: its name.
    """
    made = new_object(
        origin,
        record,
        key=key,
        kind="capture",
        sop_class=SecondaryCaptureImageStorage,
        modality="OT",
        device=device,
    )
    pixels = _with_text(_fitted(picture), record)  # (H, W, 3) uint8 RGB
    made.ConversionType, made.BurnedInAnnotation, made.PatientOrientation = "WSD", "YES", ""
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.DerivationDescription = plain(f"Overlay and text by cxr-edge. {NOTICE}")
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = origin.sop_class, origin.instance
    made.SourceImageSequence = [source]
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.Rows, made.Columns = pixels.shape[:2]
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    content = pixels.tobytes()
    made.PixelData = content + bytes(len(content) % 2)
    made["PixelData"].VR = "OB"
    return dump_object(made)


def _fitted(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB, its longer side at most so long; even the text fits into a narrow one."""
    rgb = picture if picture.ndim == 3 else cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
    scale = _MOST_SIDE_PX / max(rgb.shape[:2])
    if scale >= 1 and rgb.shape[1] >= _MOST_SIDE_PX // 2:
        return np.ascontiguousarray(rgb)
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), np.uint8)


def _with_text(rgb: NDArray[np.uint8], record: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The picture with lines of text below it: what covered the picture would hide something."""
    lines = (
        (NOTICE, _YELLOW),
        (f"{record['label_positive']}: {record['decision']}, probability {record['probability']:.3f}", _WHITE),
        (f"threshold {record['threshold']:.3f}, bundle {record['bundle']['name']}", _WHITE),
        (f"{record['bundle']['id'][:16]}, {record['time']}", _WHITE),
    )
    strip = np.zeros((_LINE_PX * len(lines) + 10, rgb.shape[1], 3), np.uint8)
    for number, (text, colour) in enumerate(lines):
        text = plain(text)
        width = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _SCALE, 1)[0][0]
        scale = min(_SCALE, _SCALE * (rgb.shape[1] - 16) / width)
        place = (8, _LINE_PX * (number + 1) - 4)
        cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    return np.vstack([rgb, strip])
