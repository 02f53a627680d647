from __future__ import annotations

import csv
import io
import struct
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import HTJ2KDecoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    generate_uid,
)

from firmware_bridge.decode import Limits, decode
from firmware_bridge.errors import ImageError, ImageOutOfBounds, UnreadableImage, UnsupportedImage

NAME, IDENTITY = "Doe^Jane", "ID-4711-SECRET"


def ramp(bits: int = 12) -> np.ndarray:
    """(64, 256) of the least type: 0 at the left to the greatest value of `bits` at the right."""
    levels = np.linspace(0, 2**bits - 1, 256).round()
    return np.tile(levels, (64, 1)).astype(np.uint8 if bits == 8 else np.uint16)


def dicom(stored: np.ndarray, *, bits: int = 12, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["test"])
    meta.TransferSyntaxUID = UID(syntax)
    dataset = FileDataset(io.BytesIO(), {}, file_meta=meta, preamble=bytes(128))
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, IDENTITY, "19500102"
    dataset.Modality = "DX"
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * stored.itemsize, bits, bits - 1
    dataset.PixelRepresentation = 1 if stored.dtype.kind == "i" else 0
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OB" if stored.itemsize == 1 else "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def lut(values: np.ndarray, *, first: int = 0, bits: int = 16, words: bool = False) -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values), first, bits])
    if words:
        item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    else:
        item.add_new("LUTData", "US", [int(value) for value in values])
    return [item]


FULL = np.linspace(0, 255, 256)


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
def test_every_depth_fills_the_range(bits: int) -> None:
    decoded = decode(dicom(ramp(bits), bits=bits))
    assert (decoded.format, decoded.width_px, decoded.height_px) == ("dicom", 256, 64)
    assert np.abs(decoded.pixels[0] - FULL).max() <= 1
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        pytest.param({"PhotometricInterpretation": "MONOCHROME1"}, FULL[::-1], id="monochrome1"),
        pytest.param(
            {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, FULL[::-1], id="not-twice"
        ),
        pytest.param({"PixelIntensityRelationshipSign": 1}, FULL[::-1], id="much-radiation-is-bright"),
        pytest.param({"PixelIntensityRelationshipSign": -1}, FULL, id="little-radiation-is-bright"),
        pytest.param(
            {"WindowCenter": 2048, "WindowWidth": 2048}, np.clip((FULL - 63.75) * 2, 0, 255), id="window-linear"
        ),
        pytest.param(
            {"WindowCenter": [2048, 9], "WindowWidth": [2048, 9]}, np.clip((FULL - 63.75) * 2, 0, 255), id="two-windows"
        ),
        pytest.param(
            {"WindowCenter": 2048, "WindowWidth": 2048, "VOILUTFunction": "LINEAR_EXACT"},
            np.clip((FULL - 63.75) * 2, 0, 255),
            id="window-linear-exact",
        ),
        pytest.param(
            {"WindowCenter": 2048, "WindowWidth": 1024, "VOILUTFunction": "SIGMOID"},
            255 / (1 + np.exp(-4 * (np.linspace(0, 4095, 256) - 2048) / 1024)),
            id="window-sigmoid",
        ),
        pytest.param({"WindowCenter": 20480, "WindowWidth": 100}, FULL, id="window-for-other-values-is-ignored"),
        pytest.param(
            {"RescaleSlope": -1, "RescaleIntercept": 4095, "PhotometricInterpretation": "MONOCHROME1"},
            FULL,
            id="negative-slope",
        ),
        pytest.param(
            {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 3096, "WindowWidth": 8192},
            FULL,
            id="window-after-rescale",
        ),
        pytest.param({"ModalityLUTSequence": lut(np.arange(4095, -1, -1))}, FULL[::-1], id="modality-lut"),
        pytest.param(
            {"VOILUTSequence": lut(np.arange(4096) // 2 * 2)}, FULL, id="voi-lut-whose-descriptor-overstates-the-bits"
        ),
        pytest.param(
            {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
            FULL,
            id="the-shape-goes-before-monochrome1",
        ),
        pytest.param({"PresentationLUTShape": "INVERSE"}, FULL[::-1], id="the-shape-goes-before-monochrome2"),
        pytest.param(
            {
                "PhotometricInterpretation": "MONOCHROME1",
                "PresentationLUTShape": "IDENTITY",
                "PixelIntensityRelationshipSign": 1,
            },
            FULL[::-1],
            id="the-sign-settles-a-contradiction",
        ),
        pytest.param(
            {"VOILUTSequence": lut(np.arange(4096), words=True)}, FULL, id="voi-lut-as-words-instead-of-numbers"
        ),
    ],
)
def test_luts_window_and_polarity_are_applied_in_order(elements: dict[str, Any], expected: np.ndarray) -> None:
    assert np.abs(decode(dicom(ramp(), **elements)).pixels[0] - expected).max() <= 1.5


def test_signed_values_are_read_as_signed() -> None:
    stored = (ramp().astype(np.int32) - 2048).astype(np.int16)
    pixels = decode(dicom(stored, bits=12, WindowCenter=0, WindowWidth=4096)).pixels
    assert np.abs(pixels[0] - FULL).max() <= 1


def test_signed_bytes_and_rescaled_bytes_fill_the_range() -> None:
    signed = (ramp(8).astype(np.int16) - 128).astype(np.int8)
    assert np.abs(decode(dicom(signed, bits=8)).pixels[0] - FULL).max() <= 1
    rescaled = dicom(ramp(8), bits=8, RescaleSlope=4, RescaleIntercept=-10)
    assert np.abs(decode(rescaled).pixels[0] - FULL).max() <= 1.5


@pytest.mark.parametrize("signed", [False, True])
def test_values_at_the_high_end_of_their_word_are_moved(signed: bool) -> None:
    stored = ramp().astype(np.int32) - (2048 if signed else 0)
    words = (stored << 4).astype(np.int16 if signed else np.uint16)
    assert np.abs(decode(dicom(words, bits=12, HighBit=15)).pixels[0] - FULL).max() <= 1


def test_an_overlay_in_unused_bits_is_no_picture() -> None:
    assert np.abs(decode(dicom(ramp() | np.uint16(0x1000), bits=12)).pixels[0] - FULL).max() <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_takes_no_contrast(photometric: str) -> None:
    stored = np.where(np.arange(256) < 64, 65535, 1000 + ramp())
    content = dicom(stored.astype(np.uint16), bits=16, PixelPaddingValue=65535, PhotometricInterpretation=photometric)
    row = decode(content).pixels[0].astype(int)
    assert (row[:64] == 0).all()
    # Without knowing of the padding, the picture would fill a sixteenth of the range.
    assert np.ptp(row[64:]) > 240


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_file_without_preamble_and_meta_group_is_read(syntax: str) -> None:
    whole = dicom(ramp(), syntax=syntax, SpecificCharacterSet="ISO_IR 100", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1")
    bare = io.BytesIO()
    dataset = pydicom.dcmread(io.BytesIO(whole))
    pydicom.dcmwrite(
        bare, Dataset(dataset), implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True, overwrite=True
    )
    assert np.array_equal(decode(bare.getvalue()).pixels, decode(whole).pixels)


def test_a_preamble_that_is_a_tiff_header_is_still_dicom() -> None:
    assert decode(b"II*\0" + dicom(ramp())[4:]).format == "dicom"


def test_view_age_and_sex_come_out_and_nothing_else_does() -> None:
    content = dicom(ramp(), ViewPosition="PA", PatientAge="018M", PatientSex="F")
    decoded = decode(content)
    assert (decoded.view, decoded.age_years, decoded.sex) == ("PA", 1.5, "F")
    assert NAME not in repr(decoded)
    assert IDENTITY not in repr(decoded)


@pytest.mark.parametrize(
    ("age", "years"),
    [("081Y", 81.0), ("81", 81.0), ("006M", 0.5), ("052W", 1.0), ("000D", 0.0), ("", None), ("old", None)],
)
def test_ages(age: str, years: float | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, on writing an age that is none
        content = dicom(ramp(), PatientAge=age)
    assert decode(content).age_years == pytest.approx(years, abs=0.01)


def jpeg_dicom(side_px: tuple[int, int] = (600, 800), **elements: Any) -> bytes:
    grey = cv2.resize(ramp(8), side_px[::-1])
    frame = cv2.imencode(".jpg", grey)[1].tobytes()
    return dicom(grey, bits=8, syntax=JPEGBaseline8Bit, PixelData=encapsulate([frame]), **elements)


def test_a_baseline_jpeg_inside_is_reduced_too() -> None:
    decoded = decode(jpeg_dicom(), min_side_px=150)
    assert decoded.pixels.shape == (150, 200)
    assert (decoded.width_px, decoded.height_px) == (800, 600)


def colour() -> bytes:
    return dicom(np.zeros((64, 64, 3), np.uint8), bits=8, SamplesPerPixel=3, PhotometricInterpretation="RGB")


def ultrasound() -> bytes:
    frame = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    return dicom(
        np.zeros((64, 64, 3), np.uint8),
        bits=8,
        syntax=JPEGBaseline8Bit,
        SamplesPerPixel=3,
        PhotometricInterpretation="YBR_FULL_422",
        PixelData=encapsulate([frame]),
    )


BAD: list[tuple[str, bytes, type[ImageError], str]] = [
    ("colour", colour(), UnsupportedImage, "RGB"),
    ("frames", dicom(ramp(), NumberOfFrames=3), UnsupportedImage, "3 frames"),
    ("32-bit", dicom(ramp(), BitsAllocated=32), UnsupportedImage, "32 bits"),
    ("too-large", dicom(ramp(), Rows=65535, Columns=65535), ImageOutOfBounds, "65535 x 65535"),
    ("too-small", dicom(ramp()[:8]), ImageOutOfBounds, "256 x 8"),
    ("pixels-missing", dicom(ramp(), Rows=6400), UnreadableImage, "cannot be decoded"),
    ("cut", dicom(ramp())[:-1000], UnreadableImage, "DICOM"),
    ("only-magic", bytes(128) + b"DICM", UnreadableImage, "without pixels"),
    ("frame-is-noise", dicom(ramp(), syntax=JPEG2000Lossless, PixelData=encapsulate([b"no"])), UnreadableImage, ""),
    ("deflated", dicom(ramp(), syntax=DeflatedExplicitVRLittleEndian), UnsupportedImage, "deflated"),
    ("impossible-bits", dicom(ramp(), BitsStored=20), UnreadableImage, "20 bits of 16"),
    ("ultrasound", ultrasound(), UnsupportedImage, "YBR_FULL_422"),
    ("of-no-known-kind", dicom(ramp(), PhotometricInterpretation="DOE JANE"), UnsupportedImage, "of another kind"),
    ("more-pixels", dicom(ramp(), PixelData=2 * ramp().tobytes()), UnreadableImage, "65536 bytes of pixels"),
    (
        "far-more-pixels",
        dicom(ramp(), Rows=32, PixelData=3 * ramp().tobytes()),
        UnreadableImage,
        "a header of 256 x 32",
    ),
    ("header-lies", jpeg_dicom(Rows=300), UnreadableImage, "800 x 600 under a header of 800 x 300"),
]


@pytest.mark.parametrize(("content", "kind", "came"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_files_are_refused_without_naming_the_patient(content: bytes, kind: type[ImageError], came: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(content)
    assert type(caught.value) is kind
    assert came in caught.value.came
    assert caught.value.do
    assert "DOE" not in str(caught.value).upper()
    assert IDENTITY not in str(caught.value)


def test_a_codestream_that_claims_a_huge_size_is_not_decoded() -> None:
    siz = struct.pack(">HHHIIIIIIIIH", 0xFF51, 41, 0, 30000, 30000, 0, 0, 30000, 30000, 0, 0, 1) + b"\x0b\x01\x01"
    content = dicom(ramp(), syntax=JPEG2000Lossless, PixelData=encapsulate([b"\xff\x4f" + siz + bytes(50)]))
    with pytest.raises(UnreadableImage, match="30000 x 30000"):
        decode(content)


@pytest.mark.skipif(HTJ2KDecoder.is_available, reason="the decoder for HTJ2K is installed here")
def test_a_missing_decoder_says_what_to_install() -> None:
    content = dicom(ramp(), syntax=HTJ2KLossless, PixelData=encapsulate([bytes(100)]))
    with pytest.raises(UnsupportedImage, match=r"pip install 'cxr-edge\[dicom\]'"):
        decode(content)


def test_limits_hold_for_dicom() -> None:
    with pytest.raises(ImageOutOfBounds):
        decode(dicom(ramp()), limits=Limits(max_pixels=1000))


def test_the_sample_dicom_files_look_like_their_pictures(samples: Path) -> None:
    for path in (samples / "dicom").glob("*.dcm"):
        pixels = decode(path).pixels
        height, width = pixels.shape
        border = np.concatenate([pixels[: height // 20].ravel(), pixels[:, : width // 40].ravel()])
        assert pixels[height // 3 : height // 2, int(width * 0.45) : int(width * 0.55)].mean() > border.mean(), (
            path.name
        )


def test_the_real_chest_files_show_dark_lungs_and_bright_bones(big_data: Path) -> None:
    read = 0
    for path in sorted((big_data / "dicom" / "chest").iterdir()):
        if path.name == "dx_966_j2k_lossless_12bit_mono1.dcm":
            with pytest.raises(UnreadableImage):
                decode(path)
            continue
        pixels = decode(path, min_side_px=448).pixels
        height, width = pixels.shape
        spine = pixels[int(height * 0.4) : int(height * 0.6), int(width * 0.45) : int(width * 0.55)].mean()
        lung = pixels[int(height * 0.3) : int(height * 0.5), int(width * 0.2) : int(width * 0.35)].mean()
        # Its tag was changed to MONOCHROME1 by hand and its pixels were not: read as tagged, it is a negative.
        assert bool(spine > lung) is (path.name != "rsna_jpegbaseline_mono1_altered.dcm"), path.name
        read += 1
    assert read == 14


def test_what_dicom_csv_says_of_size_age_and_view_is_what_comes_out(big_data: Path) -> None:
    with (big_data / "dicom" / "dicom.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (big_data / "dicom" / row["file"]).is_file()]
    for row in rows:
        try:
            decoded = decode(big_data / "dicom" / row["file"])
        except ImageError:
            assert "DECODE FAILED" in row["pixel_range"], row["file"]
            continue
        assert (decoded.height_px, decoded.width_px) == (int(row["rows"]), int(row["cols"]))
        assert decoded.view == row["view"]
        assert decoded.sex == row["sex"]
        assert decoded.age_years == (float(row["age"]) if row["age"] else None)
