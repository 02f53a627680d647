"""A benchmark on a device that fails: it says why, and nothing of it stays."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from firmware_bridge.deploy.install import PYTHON
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.measure import measure
from firmware_bridge.errors import DeployError
from tests.firmware_bridge.deploy.described import layered

LAYERS = {"app": "a" * 64, "site": "b" * 64}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A device with nothing but the two layers that the benchmark needs, both without any code."""
    layout = layered(tmp_path, "ab")
    (layout.root / "var" / "tmp").mkdir(parents=True)
    return layout


def packed(name: str) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    return io.BytesIO(buffer.getvalue())


def failed(layout: Layout, stream: io.BytesIO) -> DeployError:
    with pytest.raises(DeployError) as caught:
        measure(layout, stream, layers=LAYERS, arguments=[], models=["m.tflite"])
    assert not layout.base.exists()
    assert list((layout.root / "var" / "tmp").iterdir()) == []
    return caught.value


@pytest.mark.skipif(os.geteuid() != 0 or not Path(PYTHON).exists(), reason="needs root, to become nobody, and python3")
def test_why_it_failed_is_told(layout: Layout) -> None:
    error = failed(layout, packed("m.tflite"))
    assert error.expected == "a table"
    assert "No module named" in error.came


@pytest.mark.parametrize(
    ("stream", "expected"),
    [(io.BytesIO(b"no archive"), "whole files"), (packed("../m.tflite"), "plain files with plain names")],
)
def test_files_that_did_not_arrive_whole_are_told(layout: Layout, stream: io.BytesIO, expected: str) -> None:
    assert expected in failed(layout, stream).expected
