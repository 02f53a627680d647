"""The process in which compressed DICOM pixels are decoded: it may hang, crash or eat memory, and nobody else does.

Started as `python -m firmware_bridge.codec_process` by `firmware_bridge.dicom_codec`. Standard input carries one JSON
line a frame, then its bytes; standard output one JSON line, then the pixels. It ends when standard input does.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

# OpenJPEG holds 32 bit samples, its wavelet buffers and the result; GDCM copies once more.
_BYTES_PER_PIXEL = 40
_SPARE_BYTES = 256 * 2**20


def main() -> None:
    """Decode frame after frame."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a codec prints must not get between the pixels
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import pydicom.pixels.decoders.base  # noqa: F401 - the decoders load now, so that no time limit counts it

    answers.write(b"{}\n")
    answers.flush()
    while line := requests.readline():
        request = json.loads(line)
        frame = requests.read(request["bytes"])
        _limit(request)
        pixels: NDArray[Any] | None = None
        try:
            pixels = _decode(request, frame)
            answer = {"shape": pixels.shape, "dtype": pixels.dtype.str}
        except _Unsupported as error:
            answer = {"unsupported": str(error)}
        except Exception as error:  # pydicom and its plugins raise anything on damage; it all means the same
            answer = {"damaged": type(error).__name__}
        _send(answers, answer, pixels)


class _Unsupported(Exception):
    """No decoder for it."""


def _limit(request: dict[str, Any]) -> None:
    """Memory and processor time for this frame: the parent's own limit falls away when the parent does."""
    used_bytes = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115, PTH123
    most_bytes = used_bytes + _SPARE_BYTES + _BYTES_PER_PIXEL * request["rows"] * request["columns"]
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, resource.RLIM_INFINITY))
    used = resource.getrusage(resource.RUSAGE_SELF)
    most_s = max(1, math.ceil(used.ru_utime + used.ru_stime + request["limit_s"]))
    resource.setrlimit(resource.RLIMIT_CPU, (most_s, resource.RLIM_INFINITY))


def _decode(request: dict[str, Any], frame: bytes) -> NDArray[Any]:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import UID

    syntax = UID(request["syntax"])
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise _Unsupported("unknown") from error
    if not decoder.is_available:
        raise _Unsupported("not installed")
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = request["rows"], request["columns"]
    dataset.BitsAllocated, dataset.BitsStored = request["bits_allocated"], request["bits_stored"]
    dataset.HighBit, dataset.PixelRepresentation = request["bits_stored"] - 1, request["signed"]
    dataset.PixelData = encapsulate([frame])
    # One decoder, not all in turn: what the best one cannot read, the others were never seen to read, and each try
    # costs up to a second. For JPEG-LS, pyjpegls takes half of GDCM's time. Empty leaves the choice to pydicom.
    plugin = next((name for name in ("pyjpegls", "gdcm") if name in decoder.available_plugins), "")
    return pixel_array(dataset, decoding_plugin=plugin)


def _send(answers: IO[bytes], answer: dict[str, Any], pixels: NDArray[Any] | None) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    if pixels is not None:
        answers.write(pixels.tobytes())
    answers.flush()


if __name__ == "__main__":
    main()
