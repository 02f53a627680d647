"""A real agent that reports to a FHIR server: every result once, whatever the server does in between."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fhir.resources", reason="needs the extra 'fhir'")

from firmware_bridge.fhir import fhir_bundle
from firmware_bridge.fhir_codes import uuid_of
from firmware_bridge.fhir_validate import validate
from firmware_bridge.status_report import as_text, report
from tests.end_to_end.certificates import Authority
from tests.end_to_end.conftest import Agent, Xrays, until
from tests.end_to_end.dcmtk import IDENTIFIERS, identified, told
from tests.end_to_end.fhir_server import FhirServer, fhir_server
from toolkit.cli.main import run


@pytest.fixture
def server() -> Iterator[FhirServer]:
    with fhir_server() as made:
        yield made


def configured(folder: Path, *lines: str) -> tuple[str, str]:
    config = folder / "agent.toml"
    config.write_text("\n".join(["[fhir]", *lines]) + "\n")
    return "--config", str(config)


def put(agent: Agent, xrays: Xrays, count: int, *, start: int = 0) -> list[str]:
    return [xrays.put(agent.watch / f"{number}.jpg", old=True) for number in range(start, start + count)]


def reported(server: FhirServer) -> list[str]:
    return sorted(one["identifier"][0]["value"] for one in server.of_kind("DiagnosticReport"))


def expected(ids: list[str]) -> list[str]:
    return sorted(f"urn:uuid:{uuid_of('DiagnosticReport', id, 'report')}" for id in ids)


def outbox(agent: Agent) -> dict[str, int]:
    facts: dict[str, int] = report(agent.state).get("outboxes", {}).get("fhir", {})
    return facts


def test_every_result_arrives_once_whatever_happens(
    agent: Agent, xrays: Xrays, server: FhirServer, tmp_path: Path
) -> None:
    options = configured(tmp_path, f"url = '{server.url}'", "timeout_s = 2")
    ids = put(agent, xrays, 4)
    agent.start(*options)  # nobody is there
    until(lambda: agent.json("3.jpg"), timeout_s=120)
    until(lambda: "an answer" in agent.log.read_text() or "refused" in agent.log.read_text(), timeout_s=120)
    agent.kill()
    server.faults = ["lost", 500, "cut", "portal"]
    server.start()
    ids += put(agent, xrays, 2, start=4)
    agent.start(*options)
    until(lambda: server.bodies, timeout_s=120)
    agent.kill()
    server.stop()
    agent.start(*options)
    server.start()
    until(lambda: reported(server) == expected(ids), timeout_s=120)
    until(lambda: outbox(agent).get("sent") == 6, timeout_s=120)
    assert agent.terminate() == 0
    assert server.invalid == []
    assert len(server.of_kind("Observation")) == 18
    assert len(server.of_kind("Device")) == 1
    assert list((agent.state / "fhir").glob("*.json")) == []
    before = len(server.bodies)
    agent.start(*options)  # nothing is sent a second time
    ids += put(agent, xrays, 1, start=6)
    until(lambda: reported(server) == expected(ids), timeout_s=120)
    assert len(server.bodies) == before + 1


def test_what_a_server_refuses_is_parked_and_offered_again_after_a_restart(
    agent: Agent, xrays: Xrays, server: FhirServer, tmp_path: Path
) -> None:
    options = configured(tmp_path, f"url = '{server.url}'", "write = 'put'")
    server.start()
    ids = [xrays.id_of(data) for data in (xrays.make(), xrays.make())]
    xrays._made -= 2
    server.refuses = uuid_of("DiagnosticReport", ids[0], "report")
    agent.start(*options)
    put(agent, xrays, 2)
    until(lambda: reported(server) == expected(ids[1:]), timeout_s=120)
    until(lambda: outbox(agent).get("parked") == 1, timeout_s=120)
    log = agent.log.read_text()
    assert f"refuses result {ids[0][:12]}: status 422: business-rule" in log
    assert "says: This profile wants a subject" in log
    assert "1 refused for good" in as_text(report(agent.state))
    asked = len(server.bodies)
    server.retry_after_s, server.faults = 3, [429]
    put(agent, xrays, 1, start=2)
    until(lambda: len(reported(server)) == 2, timeout_s=120)
    assert server.times[-1] - server.times[-2] > 2.9, "it asked for three seconds"
    assert len(server.bodies) == asked + 2, "what was refused is not offered again and again"
    assert agent.terminate() == 0
    server.refuses = ""
    agent.start(*options)
    until(lambda: len(reported(server)) == 3, timeout_s=120)
    assert set(expected(ids)) <= set(reported(server))


def test_a_token_from_a_file_over_tls_and_a_patient_only_by_configuration(
    agent: Agent, server: FhirServer, samples: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "hospital")
    pair = authority.issue("fhir")
    server.secure(pair.cert, pair.key)
    server.token = "right"
    server.start()
    (tmp_path / "token").write_text("wrong\n")
    lines = [f"url = '{server.url}'", "token_file = 'token'", f"ca = '{authority.cert}'"]
    agent.start(*configured(tmp_path, *lines))
    source = samples / "dicom" / "pneumonia_cr_monochrome1_12bit.dcm"
    identified(source, agent.watch / "Sichelschmidt.dcm", number=1)
    until(lambda: "does not let us in" in agent.log.read_text(), timeout_s=120)
    until(lambda: outbox(agent) == {"waiting": 1, "parked": 0, "sent": 0, "made_to": 1})
    assert report(agent.state)["works"] is True
    (tmp_path / "token").write_text("right\n")
    until(lambda: len(server.of_kind("DiagnosticReport")) == 1, timeout_s=120)
    assert [told(body) for body in server.bodies] == [[]] * len(server.bodies)
    assert agent.terminate() == 0
    more = ["study = true", "patient = 'identifier'", "patient_system = 'urn:oid:1.2.276'"]
    agent.start(*configured(tmp_path, *lines, *more))
    uid = identified(source, agent.watch / "other.dcm", number=2)
    until(lambda: len(server.of_kind("DiagnosticReport")) == 2, timeout_s=120)
    assert agent.terminate() == 0
    (named,) = [one for one in server.of_kind("DiagnosticReport") if "subject" in one]
    assert named["subject"]["identifier"] == {"system": "urn:oid:1.2.276", "value": IDENTIFIERS["PatientID"]}
    assert uid.encode() in server.bodies[-1]
    assert told(agent.log.read_bytes()) == []
    assert "right" not in agent.log.read_text()


def test_a_single_run_fills_a_folder_and_the_export_says_the_same(
    agent: Agent, xrays: Xrays, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = put(agent, xrays, 2)
    shutil.copy(samples / "index.csv", agent.watch / "index.csv")  # refused, and not reported by default
    (tmp_path / "fhir").mkdir()
    options = ("--once", *configured(tmp_path, "folder = 'fhir'"), "--grace", "0.1")
    for _ in range(3):  # a slow machine needs another run: an agent does not wait long for its parts
        agent.start(*options)
        until(lambda: not agent.running, timeout_s=120)
        assert agent.wait() == 0
        if len(list((tmp_path / "fhir").iterdir())) == 2:
            break
    made = {path.name.split(".")[0]: json.loads(path.read_bytes()) for path in (tmp_path / "fhir").iterdir()}
    assert sorted(made) == sorted(ids)
    assert run(["results", "export", "--state", str(agent.state), "--format", "fhir"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3
    for bundle in (*made.values(), *lines):
        validate(bundle)
    records: list[dict[str, Any]] = [json.loads(text) for (text,) in agent.journal("SELECT record FROM result")]
    assert lines == [fhir_bundle(record) for record in records]
    assert (tmp_path / "fhir" / f"{ids[0]}.fhir.json").stat().st_mode & 0o007 == 0


@pytest.mark.parametrize(
    ("lines", "told_of"),
    [
        (["url = 'ftp://x'"], "[fhir] url is no address"),
        (["url = 'http://user:hunter2@x'"], "one with a user"),
        (["url = 'http://x'", "ca = 'missing.pem'"], "[fhir] ca without TLS"),
        (["url = 'https://x'", "ca = 'missing.pem'"], "[fhir] ca cannot be used"),
        (["url = 'https://x'", "token_file = 'missing'"], "token_file cannot be used"),
        (["folder = 'missing'"], "[fhir] folder cannot be used"),
        (["folder = 'watched'"], "outside of the watched one"),
        (["folder = '.'", "patient = 'search'"], "patient_system"),
    ],
)
def test_a_wrong_setting_is_told_at_the_start(agent: Agent, tmp_path: Path, lines: list[str], told_of: str) -> None:
    assert agent.run(*configured(tmp_path, *lines)) == 2
    log = agent.log.read_text()
    assert told_of in log
    assert "hunter2" not in log
