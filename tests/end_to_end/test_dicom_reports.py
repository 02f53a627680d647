"""A real agent that reports to a real archive (DCMTK's storescp): everything arrives, whatever happens in between."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from firmware_bridge.status_report import report
from tests.end_to_end.conftest import Agent, free_port, until
from tests.end_to_end.dcmtk import identified, program, run, told

pytest.importorskip("pynetdicom", reason="needs the extra 'dicom-net'")


class Archive:
    """storescp, started and stopped at will."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        command = [program("storescp"), "-od", str(self.folder), *options, str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def uids(self) -> list[str]:
        return sorted(str(pydicom.dcmread(path).SOPInstanceUID) for path in self.folder.iterdir())


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    folder = tmp_path / "archive"
    folder.mkdir()
    made = Archive(folder)
    yield made
    made.stop()


def configured(folder: Path, *lines: str) -> tuple[str, str]:
    config = folder / "agent.toml"
    config.write_text("\n".join(["[dicom]", "report = true", "capture = true", *lines]) + "\n")
    return "--config", str(config)


def rows(agent: Agent, query: str) -> list[tuple[object, ...]]:
    path = agent.state / "reports" / "outbox.sqlite"
    if not path.exists():
        return []
    with sqlite3.connect(path) as database:
        there = database.execute("SELECT 1 FROM sqlite_master WHERE name='object'").fetchall()
        found = database.execute(query).fetchall() if there else []
    database.close()
    return found


def sent(agent: Agent) -> int:
    return len(rows(agent, "SELECT 1 FROM object WHERE sent_s IS NOT NULL"))


def put(agent: Agent, samples: Path, *, count: int, start: int = 0) -> None:
    sources = sorted((samples / "dicom").glob("*.dcm"))
    for number in range(start, start + count):
        hidden = agent.watch / f".{number}.dcm"
        identified(sources[number % len(sources)], hidden, number=number)
        hidden.rename(agent.watch / f"{number}.dcm")


def test_reports_lie_beside_the_x_ray_and_are_not_taken_for_x_rays(agent: Agent, samples: Path, tmp_path: Path) -> None:
    agent.start(*configured(tmp_path, "beside = true"))
    put(agent, samples, count=1)
    until((agent.watch / "0.dcm.cxr.sc.dcm").exists, what="the capture")
    report = agent.watch / "0.dcm.cxr.sr.dcm"
    shown = run("dsr2html", report)
    assert shown.returncode == 0
    assert "Not for diagnosis" in shown.stdout
    shutil.copy(sorted((samples / "chest_xray").rglob("*.jp*g"))[0], agent.watch / "other.jpeg")
    until(lambda: agent.json("other.jpeg"))
    assert agent.terminate() == 0
    assert agent.journal("SELECT count(*) FROM result") == [(2,)]
    for path in agent.watch.glob("*.cxr.*"):
        assert told(path.read_bytes()) == [], path.name


def test_a_single_run_reports_before_it_ends(agent: Agent, samples: Path, tmp_path: Path) -> None:
    put(agent, samples, count=2)
    assert agent.run(*configured(tmp_path, "beside = true")) == 0
    assert len(list(agent.watch.glob("*.cxr.sr.dcm"))) == 2


def test_reports_reach_the_archive_in_the_patients_study_once(
    agent: Agent, archive: Archive, samples: Path, tmp_path: Path
) -> None:
    archive.start()
    options = configured(tmp_path, f"send_to = 'ARCHIVE@127.0.0.1:{archive.port}'", "patient = true")
    agent.start(*options)
    put(agent, samples, count=2)
    until(lambda: sent(agent) == 4)
    assert agent.terminate() == 0
    studies = {pydicom.dcmread(path).StudyInstanceUID for path in archive.folder.iterdir()}
    assert studies == {pydicom.dcmread(path).StudyInstanceUID for path in agent.watch.glob("?.dcm")}
    before = {path: path.stat().st_mtime_ns for path in archive.folder.iterdir()}
    assert len(before) == 4
    assert told(agent.log.read_bytes()) == []
    agent.start(*options)  # nothing is sent a second time
    put(agent, samples, count=1, start=2)
    until(lambda: sent(agent) == 6)
    after = {path: path.stat().st_mtime_ns for path in archive.folder.iterdir()}
    assert len(after) == 6
    assert before.items() <= after.items()
    assert list((agent.state / "reports").glob("*.dcm")) == []


def test_an_archive_that_is_away_and_kills_in_between_lose_nothing(
    agent: Agent, archive: Archive, samples: Path, tmp_path: Path
) -> None:
    options = configured(tmp_path, f"send_to = 'ARCHIVE@127.0.0.1:{archive.port}'", "timeout_s = 2")
    agent.start(*options)
    for start in (0, 3, 6):
        put(agent, samples, count=3, start=start)
        until(lambda least=2 * start + 1: len(rows(agent, "SELECT 1 FROM object")) >= least)
        agent.kill()
        agent.start(*options)
    until(lambda: len(rows(agent, "SELECT 1 FROM object")) == 18, timeout_s=60)
    assert sent(agent) == 0
    archive.start()
    until(lambda: sent(agent) > 2, timeout_s=60)
    agent.kill()
    agent.start(*options)
    until(lambda: sent(agent) == 18, timeout_s=60)
    assert archive.uids() == sorted(str(uid) for (uid,) in rows(agent, "SELECT uid FROM object"))
    for path in archive.folder.iterdir():
        assert told(path.read_bytes()) == []


def test_an_archive_that_refuses_us_is_tried_again(
    agent: Agent, archive: Archive, samples: Path, tmp_path: Path
) -> None:
    archive.start("--refuse")
    agent.start(*configured(tmp_path, f"send_to = 'ARCHIVE@127.0.0.1:{archive.port}'"))
    put(agent, samples, count=1)
    until(lambda: "the archive ARCHIVE" in agent.log.read_text())
    until(lambda: "dicom reports" in report(agent.state)["problems"])
    assert report(agent.state)["works"] is True, "nothing is lost meanwhile"
    archive.stop()
    archive.start()
    until(lambda: sent(agent) == 2, timeout_s=60)


def test_results_from_before_reports_were_asked_for_are_not_reported(
    agent: Agent, samples: Path, tmp_path: Path
) -> None:
    put(agent, samples, count=1)
    assert agent.run() == 0
    put(agent, samples, count=1, start=1)
    assert agent.run(*configured(tmp_path, "beside = true")) == 0
    assert [path.name for path in agent.watch.glob("*.cxr.sr.dcm")] == ["1.dcm.cxr.sr.dcm"]


@pytest.mark.parametrize(
    ("lines", "told_of"),
    [
        ([], "go nowhere"),
        (["send_to = 'nobody'"], "send_to is no address"),
        (["send_to = 'A@127.0.0.1:11113'", "send_tls = true", "tls_ca = 'missing.pem'"], "tls_ca"),
        (["beside = true", "port = 11199", "classes = ['MRT']"], "classes"),
        (["beside = true", "port = 11199", "bind = 'no address'"], "bind or port"),
        (["beside = true", "port = 11199", "ae_title = 'A title that is too long'"], "ae_title"),
        (["beside = true", "port = 11199", "folder = '../elsewhere'"], "folder"),
    ],
)
def test_a_wrong_setting_is_told_at_the_start(agent: Agent, tmp_path: Path, lines: list[str], told_of: str) -> None:
    assert agent.run(*configured(tmp_path, *lines)) == 2
    assert told_of in agent.log.read_text()
