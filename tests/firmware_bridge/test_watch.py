"""The kernel's word about a folder."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from firmware_bridge.watch import FolderWatch


def test_a_stop_while_files_are_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = threading.Event()
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            for name in "ab":  # in turn: the kernel makes one event of two alike that follow each other
                os.close(os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(40):  # of 20 such stops, 4 had watchdog complain of its own thread
            watch = FolderWatch(tmp_path, lambda _path: told.set())
            watch.start()
            assert told.wait(10.0)
            watch.stop()
            told.clear()
    finally:
        over.set()
        writer.join()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
