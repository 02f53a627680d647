"""`cxr-edge results export` and `cxr-edge audit verify` on the journals of real agents' making."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge.audit import AuditLog
from firmware_bridge.audit_line import files_of
from firmware_bridge.journal import Arrival, Journal, Outcome
from firmware_bridge.results_export import COLUMNS, moment
from toolkit.cli.main import run

TIMES = ["2026-11-23T23:59:59.999Z", "2026-11-24T00:00:00.000Z", "2026-11-25T12:00:00.000Z"]


def record(number: int, *, time: str, name: str = "") -> dict[str, Any]:
    image = {
        "id": f"image-{number}",
        "width_px": 10,
        "height_px": 20,
        "format": "jpeg",
        **({"name": name} if name else {}),
    }
    head = {"schema": 1, "notice": "Not for diagnosis.", "id": f"{number:064x}", "time": time, "image": image}
    head |= {"bundle": {"id": "b", "name": "=bundle"}}
    if number % 3 == 2:
        return {**head, "refused": {"what": "no image", "expected": "one", "came": "@none", "do": "mend it"}}
    decision = "positive" if number % 3 else "negative"
    return {
        **head,
        "model": {"file": "m"},
        "label_positive": "pneumonia",
        "probability": 0.25,
        "logit": -1.5,
        "threshold": 0.5,
        "decision": decision,
    }


def fill(journal: Journal, records: list[dict[str, Any]]) -> None:
    paths = [Path("/x") / f"{one['id']}.jpg" for one in records]
    rows = journal.take([Arrival(path, path.name, 1, 1) for path in paths])
    journal.settle(
        [Outcome(row.seq, row.path, one["id"], json.dumps(one)) for row, one in zip(rows, records, strict=True)]
    )


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Three results, and the journal still open: the agent runs."""
    folder = tmp_path / "state"
    journal = Journal(folder)
    fill(journal, [record(n, time=time, name='=HYPERLINK("x")' if n == 0 else "") for n, time in enumerate(TIMES)])
    log = AuditLog(folder, journal.path, problem=lambda _: None)
    log.follow()
    yield folder
    log.close()
    journal.close()


def test_csv(state: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.csv"
    assert run(["results", "export", "--state", str(state), "--out", str(out)]) == 0
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["decision"] for row in rows] == ["negative", "positive", "refused"]
    assert rows[0]["name"] == '\'=HYPERLINK("x")'
    assert rows[0]["bundle_name"] == "'=bundle"
    assert rows[0]["logit"] == "-1.5"
    assert (rows[2]["refused"], rows[2]["refused_came"], rows[2]["probability"]) == ("no image", "'@none", "")
    assert {row["notice"] for row in rows} == {"Not for diagnosis."}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "state"]


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ([], [0, 1, 2]),
        (["--since", "2026-11-24T00:00Z"], [1, 2]),
        (["--until", "2026-11-24T01:00+01:00"], [0]),
        (["--since", "2026-11-24T00:00Z", "--until", "2026-11-25T12:00:00Z"], [1]),
        (["--decision", "refused"], [2]),
        (["--decision", "positive", "--decision", "negative"], [0, 1]),
    ],
)
def test_filters(state: Path, capfd: pytest.CaptureFixture[str], options: list[str], ids: list[int]) -> None:
    assert run(["results", "export", "--state", str(state), "--format", "jsonl", *options]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [int(json.loads(line)["id"], 16) for line in lines] == ids
    assert all(json.loads(line)["notice"] for line in lines)


def test_a_moment_is_local_time_unless_it_says_otherwise() -> None:
    assert moment("2026-11-24T10:00Z") == "2026-11-24T10:00:00.000Z"
    assert moment("2026-11-24T10:00+01:00") == "2026-11-24T09:00:00.000Z"
    assert moment("2026-11-24").endswith("Z")


@pytest.mark.parametrize("word", ["yesterday", "2026-13-01", "0001-01-01T00:00+14:00"])
def test_what_is_no_moment(state: Path, capfd: pytest.CaptureFixture[str], word: str) -> None:
    assert run(["results", "export", "--state", str(state), "--since", word]) == 2
    assert "is not a moment" in capfd.readouterr().err


@pytest.mark.parametrize("command", [["results", "export"], ["audit", "verify"]])
def test_a_folder_without_a_journal(tmp_path: Path, capfd: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert run([*command, "--state", str(tmp_path / "none")]) == 2
    assert "no agent kept its state" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_is_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"no database" * 1000)
    assert run(["results", "export", "--state", str(tmp_path)]) == 8
    assert "cannot be read" in capfd.readouterr().err


def test_a_failed_export_leaves_the_old_file(state: Path, tmp_path: Path) -> None:
    out = tmp_path / "folder" / "results.csv"
    assert run(["results", "export", "--state", str(state), "--out", str(out)]) == 8
    assert not out.parent.exists()


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_looking_changes_nothing(tmp_path: Path, stopped: bool) -> None:
    folder = tmp_path / "state"
    journal = Journal(folder)
    fill(journal, [record(1, time=TIMES[0])])
    log = AuditLog(folder, journal.path, problem=lambda _: None)
    log.follow()
    if stopped:
        log.close()
        journal.close()

    def look() -> dict[str, bytes]:
        # The index of the write-ahead log is shared memory: every reader marks its place there.
        return {
            str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and "-shm" not in path.name
        }

    before = look()
    assert run(["results", "export", "--state", str(folder)]) == 0
    assert run(["audit", "verify", "--state", str(folder)]) == 0
    assert look() == before
    if not stopped:
        log.close()
        journal.close()


def test_verify(state: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", "verify", "--state", str(state)]) == 0
    out = capfd.readouterr().out
    assert "4 lines, 3 results" in out
    assert "Not for diagnosis" in out
    head = out.split("Head: ")[1].split()[0]
    assert run(["audit", "verify", "--state", str(state), "--head", head.upper()]) == 0
    assert run(["audit", "verify", "--state", str(state), "--head", "0" * 64]) == 11
    (path,) = files_of(state / "audit")
    path.write_bytes(path.read_bytes().replace(b'"score":0.25', b'"score":0.75', 1))
    capfd.readouterr()
    assert run(["audit", "verify", "--state", str(state)]) == 11
    captured = capfd.readouterr()
    assert f"fault: {path.name}:2: changed or foreign" in captured.out
    assert f"came:     {path.name}:2" in captured.err


MEMORY = """
import resource, sys
from toolkit.cli.main import run
code = run(["results", "export", "--state", sys.argv[1], "--out", sys.argv[2]])
code += run(["audit", "verify", "--state", sys.argv[1]])
print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


@pytest.mark.slow
def test_memory_is_flat(tmp_path: Path) -> None:
    """Ten times the results, and not a tenth more memory."""
    peaks = []
    for number in (1_000, 10_000):
        folder = tmp_path / str(number)
        journal = Journal(folder)
        for start in range(0, number, 1_000):
            fill(journal, [record(n, time=TIMES[0]) for n in range(start, start + 1_000)])
        log = AuditLog(folder, journal.path, problem=lambda _: None)
        log.follow()
        log.close()
        journal.close()
        command = [sys.executable, "-c", MEMORY, str(folder), str(tmp_path / "out.csv")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        code, peak_kib = map(int, done.stderr.split())
        assert code == 0
        assert len((tmp_path / "out.csv").read_text().splitlines()) == number + 1
        peaks.append(peak_kib)

    assert peaks[1] < peaks[0] * 1.1
