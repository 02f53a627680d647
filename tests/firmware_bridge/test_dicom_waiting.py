"""How much of what was received by DICOM may wait; and what a second sender of the same X-ray is told, and when."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from firmware_bridge.dicom_waiting import Waiting
from firmware_bridge.journal import Arrival, Journal

pytest.importorskip("pynetdicom", reason="needs the extra 'dicom-net'")


def test_so_many_wait_and_no_more_until_some_are_taken_or_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_bridge.dicom_waiting._LOOK_EVERY_S", 0.0)
    journal = Journal(tmp_path / "state")
    waiting = Waiting(journal, most=3)
    paths = [tmp_path / f"{number}.dcm" for number in range(3)]
    for path in paths:
        path.write_bytes(b"x")
        assert not waiting.are_too_many()
        waiting.add(path)
    assert waiting.are_too_many()
    status = paths[0].stat()
    journal.take([Arrival(paths[0], "0" * 64, status.st_size, status.st_mtime_ns)])
    assert not waiting.are_too_many()
    waiting.add(tmp_path / "3.dcm")
    paths[1].unlink()
    assert not waiting.are_too_many()
    journal.close()


def test_a_second_sender_hears_nothing_before_the_folder_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from firmware_bridge import dicom_folder as module

    folder = module.DicomFolder(tmp_path, "dicom", section="dicom")
    (tmp_path / "dicom").mkdir()
    synced: list[str] = []
    first_waits, go_on = threading.Event(), threading.Event()
    really = module.sync_folder

    def slow_disk(folder: Path) -> None:
        who = threading.current_thread().name
        if who == "first":
            first_waits.set()
            go_on.wait(10)
        really(folder)
        synced.append(who)

    monkeypatch.setattr(module, "sync_folder", slow_disk)
    first = threading.Thread(target=folder.put, args=("1.2.3", b"content"), name="first")
    first.start()
    assert first_waits.wait(10)  # its file has its name, and the folder is not synced
    second = threading.Thread(target=folder.put, args=("1.2.3", b"content"), name="second")
    second.start()
    second.join(10)
    assert synced == ["second"]
    go_on.set()
    first.join(10)
    assert len(list((tmp_path / "dicom").iterdir())) == 1
