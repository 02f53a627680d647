"""A real agent beside a real Orthanc: what is new is scored, its reports are in its study once, whatever happens."""

from __future__ import annotations

import io
import random
import shutil
import sqlite3
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from firmware_bridge.status_report import report
from tests.end_to_end.conftest import Agent, until
from tests.end_to_end.dcmtk import IDENTIFIERS, identified, told
from tests.end_to_end.orthanc_server import OrthancServer

REPORTED = ["OT", "SR"]


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[OrthancServer]:
    folder = tmp_path / "orthanc"
    folder.mkdir()
    made = OrthancServer(folder)
    yield made
    made.stop()


def configured(folder: Path, orthanc: OrthancServer, *lines: str, more: str = "") -> tuple[str, ...]:
    (folder / "password").write_text(f"{orthanc.password}\n")
    (folder / "password").chmod(0o600)
    config = folder / "agent.toml"
    common = [f"url = '{orthanc.url}'", "user = 'cxr'", "password_file = 'password'", "poll_s = 0.2", "timeout_s = 10"]
    config.write_text("\n".join(["[orthanc]", *common, *lines]) + f"\n{more}")
    return "--config", str(config), "--settle", "0.1", "--grace", "0.3"


def feed(agent: Agent, query: str) -> list[tuple[object, ...]]:
    path = agent.state / "orthanc" / "feed.sqlite"
    if not path.exists():
        return []
    with sqlite3.connect(path, timeout=10) as database:
        try:
            found = database.execute(query).fetchall()
        except sqlite3.OperationalError:
            found = []
    database.close()
    return found


def states(agent: Agent) -> dict[object, object]:
    return dict(feed(agent, "SELECT state, count(*) FROM instance GROUP BY state"))  # type: ignore[arg-type]


def looking(agent: Agent) -> None:
    """Wait for the first look: what is sent from now on is new."""
    until(lambda: feed(agent, "SELECT seq FROM cursor"), timeout_s=120, what="the first look")


def uid(*parts: str) -> str:
    return str(generate_uid(entropy_srcs=list(parts)))


def chest(samples: Path, target: Path, number: int, **elements: str) -> str:
    """A chest X-ray of a patient and a study of its own; the study's UID."""
    sources = sorted((samples / "dicom").glob("*.dcm"))
    identified(sources[number % len(sources)], target, number=number)
    dataset = pydicom.dcmread(target)
    dataset.PatientID, dataset.SeriesInstanceUID = f"MRN-{number}", uid("series", str(number))
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(target)
    return str(dataset.StudyInstanceUID)


def send(orthanc: OrthancServer, samples: Path, folder: Path, numbers: range) -> list[str]:
    studies = []
    for number in numbers:
        path = folder / f"send-{number}.dcm"
        studies.append(chest(samples, path, number))
        orthanc.send(path)
    return studies


def once_each(orthanc: OrthancServer, studies: list[str]) -> bool:
    """Each has its X-ray, one report and one capture: none lost, none twice."""
    found = orthanc.studies()
    reports = [sorted(found.get(study, []))[1:] for study in studies]
    for study in studies:
        assert len(found[study]) <= 3, found[study]
    return reports == [REPORTED] * len(studies)


def test_new_chest_x_rays_are_scored_and_reported_into_their_study(
    agent: Agent, orthanc: OrthancServer, samples: Path, tmp_path: Path
) -> None:
    orthanc.start()
    (old,) = send(orthanc, samples, tmp_path, range(100, 101))
    agent.start(*configured(tmp_path, orthanc, more="[explain]\noverlay = true\n"))
    looking(agent)
    study = chest(samples, tmp_path / "a.dcm", 0)
    others = {"lateral": {"ViewPosition": "LL"}, "knee": {"BodyPartExamined": "KNEE"}, "ct": {"Modality": "CT"}}
    for name, elements in others.items():  # of the same study
        uids = {"SOPInstanceUID": uid(name), "SeriesInstanceUID": uid(name, "series")}
        chest(samples, tmp_path / f"{name}.dcm", 0, **uids, **elements)
        orthanc.send(tmp_path / f"{name}.dcm")
    orthanc.send(tmp_path / "a.dcm")
    until(lambda: states(agent) == {"stored": 1}, timeout_s=120)
    assert orthanc.send(tmp_path / "a.dcm")["Status"] == "AlreadyStored"
    (other,) = send(orthanc, samples, tmp_path, range(1, 2))
    until(lambda: states(agent) == {"stored": 2}, timeout_s=120)
    found = orthanc.studies()
    assert found[old] == ["CR"] or found[old] == ["DX"], "it was there before"
    assert found[study].count("SR") == found[study].count("OT") == 1
    assert len(found[study]) == 6
    assert once_each(orthanc, [other])
    assert agent.journal("SELECT count(*) FROM result") == [(2,)], "neither our reports nor what is no chest"
    tags = next(one for one in orthanc.instances("SR") if one["StudyInstanceUID"] == study)
    assert tags["PatientName"] == IDENTIFIERS["PatientName"], "what Orthanc has of the patient, it gets back"
    assert tags["PreliminaryFlag"] == "PRELIMINARY"
    capture = orthanc.instances("OT")[0]
    assert "Not for diagnosis" in capture["DerivationDescription"]
    assert told(agent.log.read_bytes()) == []
    until(lambda: report(agent.state)["outboxes"]["orthanc"]["sent"] == 2)
    assert agent.terminate() == 0
    # Our copies go a while after; a minute that is not waited for here.
    assert list((agent.watch / "orthanc").glob("*.dcm"))
    with sqlite3.connect(agent.state / "orthanc" / "feed.sqlite") as database:
        database.execute("UPDATE instance SET changed_s = changed_s - 3600")
    database.close()
    agent.start(*configured(tmp_path, orthanc))
    until(lambda: not list((agent.watch / "orthanc").iterdir()), timeout_s=120)
    assert len(orthanc.instances("SR")) == 2


def test_a_wrong_password_a_closed_port_and_restarts_lose_nothing(
    agent: Agent, orthanc: OrthancServer, samples: Path, tmp_path: Path
) -> None:
    options = configured(tmp_path, orthanc, "backlog = true")
    agent.start(*options)  # nobody is there
    until(lambda: "an answer" in agent.log.read_text() or "refused" in agent.log.read_text(), timeout_s=120)
    (tmp_path / "password").write_text("wrong\n")
    orthanc.start()
    studies = send(orthanc, samples, tmp_path, range(2))
    until(lambda: "status 401" in agent.log.read_text(), timeout_s=120)
    until(lambda: "orthanc" in report(agent.state)["problems"])
    assert report(agent.state)["works"] is True, "X-rays of the folder are scored meanwhile"
    assert "wrong" not in agent.log.read_text()
    (tmp_path / "password").write_text("secret\n")
    until(lambda: states(agent) == {"stored": 2}, timeout_s=120)
    studies += send(orthanc, samples, tmp_path, range(2, 8))
    orthanc.stop(kill=True)
    orthanc.start()
    until(lambda: states(agent).get("stored", 0) == 8, timeout_s=120)
    assert once_each(orthanc, studies)


def test_killed_at_random_moments(agent: Agent, orthanc: OrthancServer, samples: Path, tmp_path: Path) -> None:
    orthanc.start()
    options = configured(tmp_path, orthanc, "backlog = true")
    studies: list[str] = []
    for turn in range(4):
        studies += send(orthanc, samples, tmp_path, range(4 * turn, 4 * turn + 4))
        before = states(agent)
        agent.start(*options)
        deadline_s = time.monotonic() + 60
        while states(agent) == before and time.monotonic() < deadline_s:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 1.0))
        agent.kill()
    agent.start(*options)
    until(lambda: states(agent) == {"stored": len(studies)}, timeout_s=180, what=str(states(agent)))
    assert once_each(orthanc, studies)
    assert agent.journal("SELECT count(*) FROM result") == [(len(studies),)]
    assert agent.terminate() == 0


def test_another_database_is_read_from_its_beginning(
    agent: Agent, orthanc: OrthancServer, samples: Path, tmp_path: Path
) -> None:
    orthanc.start()
    agent.start(*configured(tmp_path, orthanc))
    looking(agent)
    studies = send(orthanc, samples, tmp_path, range(3))
    until(lambda: states(agent) == {"stored": 3}, timeout_s=120)
    # Deleted studies take their changes with them: that is no other database.
    every = {one["MainDicomTags"]["StudyInstanceUID"]: one["ID"] for one in orthanc.get("/studies?expand")}
    orthanc.ask("DELETE", f"/studies/{every[studies[2]]}")
    orthanc.ask("DELETE", "/changes")
    time.sleep(1.5)
    assert "another database" not in agent.log.read_text()
    orthanc.send(tmp_path / "send-2.dcm")  # deleted, and sent again: it has no reports any more
    until(lambda: once_each(orthanc, studies), timeout_s=120)
    orthanc.stop()
    shutil.rmtree(orthanc.storage)
    orthanc.start()
    assert send(orthanc, samples, tmp_path, range(2)) == studies[:2]
    until(lambda: "another database" in agent.log.read_text(), timeout_s=120)
    until(lambda: once_each(orthanc, studies[:2]), timeout_s=120)
    assert agent.journal("SELECT count(*) FROM result") == [(3,)], "known results are not made again"
    assert agent.terminate() == 0


def test_what_was_deleted_is_not_brought_back_and_what_is_huge_stays_there(
    agent: Agent, orthanc: OrthancServer, samples: Path, tmp_path: Path
) -> None:
    orthanc.start()
    agent.start(*configured(tmp_path, orthanc))
    looking(agent)
    (agent.watch / "orthanc").symlink_to(tmp_path)  # nothing can be written there
    send(orthanc, samples, tmp_path, range(1))
    until(lambda: "X-rays of Orthanc cannot be written" in agent.log.read_text(), timeout_s=120)
    assert states(agent) == {"seen": 1}, "it stays with Orthanc"
    orthanc.delete_all()
    (agent.watch / "orthanc").unlink()
    until(lambda: states(agent) == {"gone": 1}, timeout_s=120)
    huge = tmp_path / "huge.dcm"
    chest(samples, huge, 1)
    dataset = pydicom.dcmread(huge)
    dataset.Rows = dataset.Columns = 8500
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = np.zeros(8500 * 8500, np.uint8).tobytes()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.save_as(huge)
    orthanc.send(huge)
    until(lambda: states(agent) == {"gone": 1, "refused": 1}, timeout_s=120)
    (study,) = send(orthanc, samples, tmp_path, range(2, 3))
    until(lambda: once_each(orthanc, [study]), timeout_s=120)
    assert agent.terminate() == 0
    # As if it had been killed before it stored the reports, and the study deleted meanwhile.
    with sqlite3.connect(agent.state / "orthanc" / "feed.sqlite") as database:
        database.execute("UPDATE instance SET state='fetched' WHERE state='stored'")
    database.close()
    orthanc.delete_all()
    agent.start(*configured(tmp_path, orthanc))
    # Its own reports too, where it had not yet read that they are there.
    until(lambda: states(agent).keys() == {"gone", "refused"} and states(agent)["gone"] >= 2, timeout_s=120)
    assert orthanc.studies() == {}, "a study of our reports alone"


def test_a_copy_that_went_away_before_it_was_taken_is_fetched_again(
    agent: Agent, orthanc: OrthancServer, samples: Path, tmp_path: Path
) -> None:
    orthanc.start()
    options = configured(tmp_path, orthanc, "backlog = true", "keep = true", "report = false")
    (study,) = send(orthanc, samples, tmp_path, range(1))
    agent.start(*options)
    until(lambda: states(agent) == {"stored": 1}, timeout_s=120)
    assert agent.terminate() == 0
    assert sorted(orthanc.studies()[study])[1:] == ["OT"], "a capture alone was asked for"
    (copy,) = (agent.watch / "orthanc").glob("*.dcm")
    copy.unlink()
    agent.journal_write("DELETE FROM intake")
    with sqlite3.connect(agent.state / "orthanc" / "feed.sqlite") as database:
        database.execute("UPDATE instance SET state='fetched', changed_s = changed_s - 3600 WHERE state='stored'")
    database.close()
    agent.start(*options)
    until(lambda: copy.exists() and states(agent) == {"stored": 1}, timeout_s=120)
    assert sorted(orthanc.studies()[study])[1:] == ["OT"]
    assert agent.terminate() == 0
    assert agent.journal("SELECT count(*) FROM result") == [(1,)]


def test_thousands_of_changes_are_read_through(
    agent: Agent, orthanc: OrthancServer, samples: Path, tmp_path: Path
) -> None:
    orthanc.start()
    packed = io.BytesIO()
    chest(samples, tmp_path / "small.dcm", 0, Modality="CT")
    dataset = pydicom.dcmread(tmp_path / "small.dcm")
    dataset.Rows = dataset.Columns = 4
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelData = 8, 8, 7, bytes(16)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(600):
            dataset.PatientID = f"P{number}"
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"1.2.3.{number}", f"1.2.3.{number}.1"
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}.1.1"
            one = io.BytesIO()
            dataset.save_as(one)
            archive.writestr(f"{number}.dcm", one.getvalue())
    assert len(orthanc.ask("POST", "/instances", packed.getvalue())) == 600
    (study,) = send(orthanc, samples, tmp_path, range(1, 2))
    assert orthanc.get("/changes?last")["Last"] >= 2400
    agent.start(*configured(tmp_path, orthanc, "backlog = true"))
    until(lambda: once_each(orthanc, [study]), timeout_s=120)
    until(lambda: states(agent) == {"stored": 1}, timeout_s=120, what="rows of what is none of ours go")
    assert agent.terminate() == 0


@pytest.mark.parametrize(
    ("lines", "told_of"),
    [
        (["url = 'orthanc'"], "[orthanc] url is no address"),
        (["url = 'http://x'", "user = 'cxr'", "password_file = 'missing'"], "password_file"),
        (["url = 'http://x'", "folder = 'done'"], "[orthanc] folder cannot be used"),
        (["url = 'http://x'", "folder = '../x'"], "[orthanc] folder cannot be used"),
    ],
)
def test_a_wrong_setting_is_told_at_the_start(agent: Agent, tmp_path: Path, lines: list[str], told_of: str) -> None:
    config = tmp_path / "agent.toml"
    config.write_text("\n".join(["[orthanc]", *lines]) + "\n")
    agent.start("--config", str(config))
    assert agent.wait() == 2
    assert told_of in agent.log.read_text()
