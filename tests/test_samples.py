from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from firmware_bridge.decode import decode
from toolkit.data.index import Index


@pytest.mark.parametrize(
    ("name", "photometric", "bits", "modality", "label"),
    [
        ("normal_dx_monochrome2.dcm", "MONOCHROME2", 8, "DX", "normal"),
        ("pneumonia_cr_monochrome1_12bit.dcm", "MONOCHROME1", 12, "CR", "pneumonia"),
    ],
)
def test_sample_dicoms_show_a_test_xray_the_right_way_round(
    samples: Path, name: str, photometric: str, bits: int, modality: str, label: str
) -> None:
    header = pydicom.dcmread(samples / "dicom" / name)
    assert (header.PhotometricInterpretation, header.BitsStored, header.Modality) == (photometric, bits, modality)
    assert str(header.PatientName).startswith("SAMPLE^")
    shown = decode(samples / "dicom" / name).pixels.astype(float)
    same = [
        row
        for row in Index.read(samples / "index.csv").select(split="test")
        if (other := decode(row.path).pixels).shape == shown.shape
        and np.corrcoef(other.ravel(), shown.ravel())[0, 1] > 0.99
    ]
    assert [row.label for row in same] == [label]


def test_the_script_makes_the_samples_again(samples: Path, big_data: Path, tmp_path: Path) -> None:
    shutil.copy(samples / "make_samples.py", tmp_path)
    environment = {**os.environ, "CXR_EDGE_DATA": str(big_data)}
    subprocess.run([sys.executable, str(tmp_path / "make_samples.py")], env=environment, check=True, timeout=120)
    assert (tmp_path / "index.csv").read_text() == (samples / "index.csv").read_text()
    for row in Index.read(samples / "index.csv"):
        again = decode(tmp_path / row.path.relative_to(samples)).pixels.astype(int)
        assert np.abs(again - decode(row.path).pixels).mean() < 1
