"""What a log line may hold: nothing that stands in a file, and no file's name."""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from firmware_bridge.logs import LogSettings, set_up


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


FORMATS = ["text", "journal", "json"]


@pytest.mark.parametrize("form", FORMATS)
def test_no_library_writes_down_what_a_file_holds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, form: str
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "x.tif", description="Sichelschmidt")
    set_up(LogSettings(level="debug", format=form))
    with Image.open(tmp_path / "x.tif") as image:
        image.load()  # Pillow writes down each tag, at level debug
    logging.getLogger("watchdog.observers.inotify_buffer").debug("in-event Sichelschmidt.jpg")
    logging.getLogger("pydicom").error("a value that is none: Sichelschmidt")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("Invalid value for VR UI: 'Sichelschmidt'", stacklevel=1)
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("firmware_bridge.outbox").debug("next try")
    said = capsys.readouterr().err
    assert "Sichelschmidt" not in said
    assert "Invalid HTTP request" in said
    assert "next try" in said


@pytest.mark.parametrize("form", FORMATS)
def test_a_trace_holds_no_files_name(capsys: pytest.CaptureFixture[str], tmp_path: Path, form: str) -> None:
    set_up(LogSettings(format=form))
    name, target = tmp_path / "Sichelschmidt.jpg", tmp_path / "Wilhelmine: 1942.jpg"  # a trace shows the line itself
    try:
        try:
            name.rename(target)
        except OSError as error:
            raise struct.error("and so the part failed") from error
    except struct.error:
        logging.getLogger("firmware_bridge.parts").exception("a part failed")
    said = capsys.readouterr().err
    assert "Sichelschmidt" not in said
    assert "Wilhelmine" not in said
    assert "No such file or directory" in said
    assert "and so the part failed" in said
