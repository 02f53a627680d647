"""The process that decodes compressed DICOM: it may be lost at any time, and costs one file at most."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge import dicom_codec
from firmware_bridge.decode import decode
from firmware_bridge.errors import UnreadableImage

gdcm = pytest.importorskip("gdcm", reason="needs the decoders of the extra 'dicom'")


@pytest.fixture
def compressed(big_data: Path) -> Path:
    return big_data / "dicom" / "chest" / "nema_RG1_j2k_lossy_15bit_mono1.dcm"


def idle_process() -> int:
    return dicom_codec._idle[-1]._child.pid


def test_one_process_serves_frame_after_frame(compressed: Path) -> None:
    first = decode(compressed)
    before = idle_process()
    assert np.array_equal(decode(compressed).pixels, first.pixels)
    assert idle_process() == before


def test_a_process_that_was_killed_is_replaced(compressed: Path) -> None:
    whole = decode(compressed).pixels
    os.kill(idle_process(), signal.SIGKILL)
    assert np.array_equal(decode(compressed).pixels, whole)


def test_a_frame_that_hangs_the_decoder_is_refused_and_the_next_one_is_read(
    compressed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode(compressed)
    stopped = idle_process()
    os.kill(stopped, signal.SIGSTOP)  # it never answers
    with monkeypatch.context() as patch:
        patch.setattr(dicom_codec, "_WALL_FACTOR", 0.0)
        patch.setattr(dicom_codec, "_WALL_S", 0.5)
        with pytest.raises(UnreadableImage, match="too long"):
            decode(compressed)
    assert decode(compressed).format == "dicom"
    assert idle_process() != stopped


def test_the_kernel_ends_a_frame_that_takes_too_much_processor_time(
    compressed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):  # the process has used up the second that the limit starts from
        decode(compressed)
    monkeypatch.setattr(dicom_codec, "limit_s", lambda *_: -100.0)
    monkeypatch.setattr(dicom_codec, "_WALL_S", 2000.0)
    with pytest.raises(UnreadableImage, match="too long"):
        decode(compressed)


def test_threads_do_not_mix_their_frames(big_data: Path) -> None:
    files = [
        big_data / "dicom" / "not_chest" / name
        for name in ("nema_RG3_J2KR.dcm", "nema_RG3_JLSL.dcm", "nema_RG3_JPLL.dcm", "nema_RG3_RLE.dcm")
    ]
    # The same leg, compressed without loss in four ways.
    whole = decode(files[0]).pixels
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(decoded.pixels, whole) for decoded in pool.map(decode, files * 2))
    assert len(dicom_codec._idle) <= 2


def read_in_child(path: Path) -> int:
    return int(decode(path).pixels.sum())


def test_a_forked_process_has_a_decoder_of_its_own(compressed: Path) -> None:
    whole = int(decode(compressed).pixels.sum())
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(read_in_child, [compressed] * 4) == [whole] * 4
    assert int(decode(compressed).pixels.sum()) == whole
