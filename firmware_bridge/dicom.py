"""DICOM to grey levels: modality LUT, then VOI LUT or window, then polarity (PS3.3 C.11.1, C.11.2, C.7.6.3, C.8.11.3).

Only the elements named here are kept; names, ids and dates never leave the parser. pydicom takes half a second to
import, so it is imported when the first DICOM file comes.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from firmware_bridge.codec import decode_jpeg_pixels, robust_range
from firmware_bridge.errors import ImageError, UnsupportedImage
from firmware_bridge.headers import damaged, read_jpeg_header, unsupported

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from firmware_bridge.decode import Decoded, Limits

__all__ = ["decode_dicom", "looks_like_bare_dicom"]

_TAGS = (
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelIntensityRelationshipSign"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth"),
    *("ViewPosition", "PatientAge", "PatientSex", "PixelData", "FloatPixelData", "DoubleFloatPixelData"),
)
_EXPORT = "export it as a single grey X-ray (DX or CR), 8 to 16 bit"
_INSTALL = "pip install 'cxr-edge[dicom]', or " + _EXPORT + ", uncompressed"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_AGE = re.compile(r"(\d{1,3})([DWMY]?)")
_A_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0, "": 1.0}
# Below this share of pixels between black and white, a window was meant for other values than those in the file.
_LEAST_INSIDE_WINDOW = 0.05


def looks_like_bare_dicom(data: bytes) -> bool:
    """Whether `data` begins with an early DICOM element in little endian: a file without preamble and magic."""
    group, element = int.from_bytes(data[0:2], "little"), int.from_bytes(data[2:4], "little")
    return len(data) > 64 and group in (0x0002, 0x0008) and element <= 0x0100


def decode_dicom(data: bytes, *, min_side_px: int | None, limits: Limits) -> Decoded:
    """Read one DICOM X-ray; see `firmware_bridge.decode.decode`.

    Raises:
        UnreadableImage: damaged, truncated, or without pixels.
        UnsupportedImage: colour, several frames, or a compression that no installed decoder reads.
        ImageOutOfBounds: too many pixels, or too small.
    """
    if _DEFLATED in data:  # pydicom would inflate it without a bound
        raise unsupported("a deflated DICOM file", do=_EXPORT)
    try:
        import pydicom
    except ImportError as error:
        raise UnsupportedImage(
            "DICOM cannot be read here",
            expected="the Python package 'pydicom'",
            came="it is not installed",
            do="pip install 'cxr-edge[dicom]'",
        ) from error
    try:
        with warnings.catch_warnings():
            # pydicom's warnings quote the values of elements, and so could write a name into a log.
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(io.BytesIO(data), force=True, specific_tags=list(_TAGS))
            return _decode(dataset, min_side_px=min_side_px, limits=limits)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # pydicom and its plugins raise anything on damaged files; it all means the same
        raise damaged(f"a DICOM file that cannot be decoded ({type(error).__name__})") from error


def _decode(dataset: Any, *, min_side_px: int | None, limits: Limits) -> Decoded:
    from firmware_bridge.decode import Decoded, check_size

    _check_kind(dataset)
    width_px, height_px = int(dataset.Columns), int(dataset.Rows)
    check_size(width_px, height_px, limits=limits)
    stored = _stored(dataset, min_side_px=min_side_px)
    return Decoded(
        pixels=_grey(dataset, stored),
        width_px=width_px,
        height_px=height_px,
        format="dicom",
        view=str(dataset.get("ViewPosition") or "").strip().upper()[:16],
        age_years=_age_years(str(dataset.get("PatientAge") or "")),
        sex=sex if (sex := str(dataset.get("PatientSex") or "").strip().upper()) in ("F", "M", "O") else "",
    )


def _check_kind(dataset: Any) -> None:
    """Refuse by the header what is not one grey picture of 8 to 16 bit."""
    if "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise unsupported("a DICOM file with floating point pixels", do=_EXPORT)
        raise damaged("a DICOM file without pixels (a report, a waveform, or a truncated file)")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise unsupported(f"a DICOM file of {frames} frames", do=_EXPORT)
    photometric = str(dataset.get("PhotometricInterpretation", "none"))
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise unsupported(f"a DICOM file in colour (photometric interpretation {photometric[:16]})", do=_EXPORT)
    if int(dataset.BitsAllocated) not in (8, 16):
        raise unsupported(f"a DICOM file of {int(dataset.BitsAllocated)} bits a pixel", do=_EXPORT)


def _stored(dataset: Any, *, min_side_px: int | None) -> NDArray[Any]:
    """The stored values: (H, W) uint8, int8, uint16 or int16; H and W reduced for baseline JPEG only."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is None:
        if dataset.PixelData[:4] == b"\xfe\xff\x00\xe0":
            raise unsupported("a compressed DICOM file that does not say how (no file meta group)", do=_EXPORT)
        implicit, little = dataset.original_encoding
        native = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = syntax = ImplicitVRLittleEndian if implicit else native
    if not syntax.is_compressed:
        return _plugin_array(dataset, syntax)

    from pydicom.encaps import get_frame

    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    width_px, height_px, bits = _codestream_size(frame) or (dataset.Columns, dataset.Rows, dataset.BitsStored)
    if (width_px, height_px) != (dataset.Columns, dataset.Rows):
        raise damaged(f"pixels of {width_px} x {height_px} under a header of {dataset.Columns} x {dataset.Rows}")
    if len(frame) > 2 * width_px * height_px * (int(dataset.BitsAllocated) // 8) + 65536:
        raise damaged(f"{len(frame)} compressed bytes for {width_px} x {height_px} pixels")
    if syntax == _JPEG_BASELINE and dataset.PixelRepresentation == 0:
        return decode_jpeg_pixels(frame, read_jpeg_header(frame), min_side_px=min_side_px)
    if frame.startswith(b"\xff\xd8\xff\xc1") and bits == 12:
        raise unsupported("a DICOM file with 12 bit lossy JPEG, which no free decoder reads", do=_EXPORT)
    return _plugin_array(dataset, syntax)


def _plugin_array(dataset: Any, syntax: Any) -> NDArray[Any]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise unsupported(f"a DICOM file compressed as {syntax.name[:60]}", do=_EXPORT) from error
    if not decoder.is_available:
        raise unsupported(f"a DICOM file compressed as {syntax.name[:60]}; its decoder is not installed", do=_INSTALL)
    # One decoder, not all in turn: what the best one cannot read, the others were never seen to read, and each try
    # costs up to a second. For JPEG-LS, pyjpegls takes half of GDCM's time. Empty leaves the choice to pydicom.
    available = decoder.available_plugins
    plugin = next((name for name in ("pyjpegls", "gdcm") if name in available), "")
    array: NDArray[Any] = pixel_array(dataset, decoding_plugin=plugin)
    if array.ndim != 2 or array.dtype.itemsize > 2:
        raise damaged(f"pixels of shape {array.shape} and type {array.dtype}")
    return array


def _codestream_size(frame: bytes) -> tuple[int, int, int] | None:
    """Width, height and bits as the compressed frame itself says, None where it has no header of its own (RLE).

    A decoder allocates by these, so they are held against the DICOM header first.
    """
    if frame.startswith(b"\xff\x4f\xff\x51"):  # JPEG 2000: SIZ (ITU T.800, A.5.1)
        right, bottom, left, top = (int.from_bytes(frame[at : at + 4], "big") for at in (8, 12, 16, 20))
        return right - left, bottom - top, (frame[42] & 0x7F) + 1
    position = 2
    while frame.startswith(b"\xff\xd8") and position + 9 < len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):  # a frame header
            height_px, width_px = (int.from_bytes(frame[at : at + 2], "big") for at in (position + 5, position + 7))
            return width_px, height_px, frame[position + 4]
        position += 2 + int.from_bytes(frame[position + 2 : position + 4], "big")
    return None


def _grey(dataset: Any, stored: NDArray[Any]) -> NDArray[np.uint8]:
    """Stored values to (H, W) uint8 with bones bright, through one table over the values that occur."""
    low, high = int(stored.min()), int(stored.max())
    occurring = np.arange(low, high + 1, dtype=np.int32)  # (V,) int32, V <= 65536
    index = (stored.astype(np.int32) - low).astype(np.uint16)  # (H, W) uint16 into `occurring`
    step = max(1, min(index.shape) // 512)
    sample = index[::step, ::step].ravel()  # about 500 x 500 are enough for percentiles
    unit = _displayed(dataset, occurring, sample)  # (V,) float64, 0 black to 1 white
    if _is_negative(dataset):
        unit = 1.0 - unit
    table = np.rint(unit * 255.0).astype(np.uint8)  # (V,) uint8
    return np.ascontiguousarray(table[index])


def _displayed(dataset: Any, occurring: NDArray[np.int32], sample: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Modality LUT, then VOI LUT or window or neither, over the stored values that occur; 0 to 1."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    values = np.asarray(apply_modality_lut(occurring, dataset), np.float64)
    if dataset.get("VOILUTSequence"):
        mapped = np.asarray(apply_voi(np.rint(values).astype(np.int32), dataset), np.float64)
        # The third word of the descriptor often overstates the bits, so the LUT's own greatest value is white.
        unit = mapped / max(1.0, float(np.max(np.asarray(dataset.VOILUTSequence[0].LUTData, np.float64))))
        return np.asarray(np.clip(unit, 0.0, 1.0), np.float64)
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        unit = _window(dataset, values)
        inside = (unit[sample] > 0.0) & (unit[sample] < 1.0)
        if inside.mean() >= _LEAST_INSIDE_WINDOW:
            return unit
    elif int(dataset.BitsStored) <= 8 and not dataset.get("ModalityLUTSequence"):
        return np.asarray(np.clip(values / (2 ** int(dataset.BitsStored) - 1), 0.0, 1.0), np.float64)
    black, white = robust_range(values[sample])
    return np.asarray(np.clip((values - black) / (white - black), 0.0, 1.0), np.float64)


def _window(dataset: Any, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first window of the file (PS3.3 C.11.2.1.2 and C.11.2.1.3), 0 to 1."""
    center, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID":
        exponent = np.clip(-4.0 * (values - center) / max(width, 1e-6), -60.0, 60.0)
        return np.asarray(1.0 / (1.0 + np.exp(exponent)), np.float64)
    if function == "LINEAR_EXACT":
        return np.asarray(np.clip((values - center) / max(width, 1e-6) + 0.5, 0.0, 1.0), np.float64)
    return np.asarray(np.clip((values - (center - 0.5)) / max(width - 1.0, 1e-6) + 0.5, 0.0, 1.0), np.float64)


def _first(value: Any) -> float:
    return float(value if isinstance(value, (int, float, str)) else value[0])


def _is_negative(dataset: Any) -> bool:
    """Whether bones come out dark, so that the picture must be turned around.

    MONOCHROME1 says so. Under MONOCHROME2, a pixel intensity relationship sign of 1 says it (PS3.3 C.8.11.3.1.2: low
    values for little radiation): such files are shown with dark bones by a viewer too. Under MONOCHROME1 the sign is
    not asked: real files contradict themselves there.
    """
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        return True
    return bool(dataset.get("PixelIntensityRelationshipSign") == 1)


def _age_years(text: str) -> float | None:
    match = _AGE.fullmatch(text.strip().upper())
    return round(int(match[1]) / _A_YEAR[match[2]], 2) if match else None
