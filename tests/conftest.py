"""Fixtures for every room: the sample X-rays of the repository, and the large real data where a machine has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of 64 real X-rays that the repository carries: `index.csv`, `chest_xray/`, `dicom/`."""
    return REPOSITORY / "samples"


@pytest.fixture(scope="session")
def big_data() -> Path:
    """The folder of the large real data sets; without it the test is skipped, and says so."""
    named = os.environ.get("CXR_EDGE_DATA")
    if not named:
        pytest.skip("needs the large real X-rays: set CXR_EDGE_DATA to their folder")
    folder = Path(named)
    if not (folder / "kermany" / "manifest.csv").is_file():
        pytest.fail(f"CXR_EDGE_DATA is {folder}, but there is no kermany/manifest.csv in it")
    return folder
