"""The audit log: whoever changes a byte is found, what a power cut leaves is mended, nothing is doubled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from firmware_bridge.audit import AuditLog
from firmware_bridge.audit_line import files_of, month_after, read_line
from firmware_bridge.audit_verify import Verdict, verify
from firmware_bridge.errors import ResourceError
from firmware_bridge.journal import Arrival, Journal, Outcome
from firmware_bridge.results_export import Choice, export_lines
from toolkit.cli.main import run

NUMBER = 12


def record(number: int, *, month: str = "2026-11") -> str:
    decision = {"probability": number / 100, "threshold": 0.5, "decision": "negative", "model": {"file": "m.tflite"}}
    head = {"id": f"{number:064x}", "time": f"{month}-24T10:00:00.000Z", "image": {"id": "i"}, "bundle": {"id": "b"}}
    return json.dumps({**head, **({"refused": {"what": "no image"}} if number % 5 == 4 else decision)})


class Device:
    """A state folder with a journal and its log."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.journal = Journal(state)
        self.problem: str | None = None
        self.log: AuditLog | None = None
        self.made = 0

    def open(self) -> AuditLog:
        self.log = AuditLog(self.state, self.journal.path, problem=self._note)
        return self.log

    def _note(self, text: str | None) -> None:
        self.problem = text

    def close(self) -> None:
        if self.log is not None:
            self.log.close()
            self.log = None

    def results(self, number: int, *, month: str = "2026-11", reported: bool = True) -> None:
        for _ in range(number):
            self.made += 1
            text = record(self.made, month=month)
            path = self.state / f"{self.made}.jpg"
            (row,) = self.journal.take([Arrival(path, f"{self.made:064x}", 1, 1)])
            self.journal.settle([Outcome(row.seq, path, json.loads(text)["id"], text, reported)])

    def lines(self) -> list[bytes]:
        return [raw for path in files_of(self.state / "audit") for raw in path.read_bytes().splitlines(keepends=True)]

    def seqs(self) -> list[int]:
        read = [read_line(raw) for raw in self.lines()]
        return [line.seq for line in read if line is not None and line.kind == "result"]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "state")
    yield made
    made.close()
    made.journal.close()


@pytest.fixture
def logged(device: Device) -> Device:
    """Twelve results in the log, across two months, and the log closed."""
    log = device.open()
    device.results(NUMBER // 2)
    assert log.follow() == NUMBER // 2
    device.results(NUMBER // 2, month="2026-12")
    assert log.follow() == NUMBER
    device.close()
    return device


def test_a_log_that_nobody_touched_is_whole(logged: Device) -> None:
    verdict = verify(logged.state)
    assert verdict.faults == []
    assert verdict.results == NUMBER
    assert [path.name for path in files_of(logged.state / "audit")] == ["audit-2026-11.jsonl", "audit-2026-12.jsonl"]
    assert verify(logged.state, head=verdict.head).faults == []
    fields = json.loads(logged.lines()[1])
    assert fields["score"] == 0.01
    assert fields["threshold"] == 0.5
    assert {"seq", "time", "id", "image", "bundle", "decision", "prev", "hash"} <= fields.keys()


def test_golden_xrays_of_a_deployment_have_lines_and_are_no_results(
    logged: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    logged.results(2, month="2026-12", reported=False)
    logged.results(1, month="2026-12")
    assert logged.open().follow() == NUMBER + 3
    verdict = verify(logged.state)
    assert (verdict.faults, verdict.results, verdict.golden) == ([], NUMBER + 1, 2)
    assert len(list(export_lines(logged.state, form="jsonl", choice=Choice()))) == verdict.results
    assert run(["audit", "verify", "--state", str(logged.state)]) == 0
    assert f"{NUMBER + 1} results, 2 golden X-rays of deployments. Head" in capsys.readouterr().out


def change(lines: list[bytes]) -> list[bytes]:
    at = next(at for at, line in enumerate(lines) if b'"score":0.03' in line)
    return [*lines[:at], lines[at].replace(b'"score":0.03', b'"score":0.93'), *lines[at + 1 :]]


TAMPERS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "changed": (change, "changed or foreign"),
    "a space more": (lambda lines: [lines[0], lines[1].replace(b":", b": ", 1), *lines[2:]], "changed or foreign"),
    "missing": (lambda lines: lines[:3] + lines[4:], "lines 4 to 4 are missing"),
    "the first missing": (lambda lines: lines[1:], "lines 1 to 1 are missing"),
    "swapped": (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "moved, inserted or doubled"),
    "doubled": (lambda lines: [*lines[:4], lines[3], *lines[4:]], "moved, inserted or doubled"),
    "foreign line": (lambda lines: [*lines[:2], b"{}\n", *lines[2:]], "changed or foreign"),
    "cut off": (lambda lines: lines[:-1], "noted in the journal, is missing"),
    "cut off within a line": (lambda lines: [*lines[:-1], lines[-1][:40]], "half-written"),
    "empty": (lambda _: [], "noted in the journal, is missing"),
}


@pytest.mark.parametrize("kind", TAMPERS)
@pytest.mark.parametrize("which", [0, 1], ids=["older file", "last file"])
def test_whoever_touches_it_is_found(logged: Device, kind: str, which: int) -> None:
    tamper, words = TAMPERS[kind]
    path = files_of(logged.state / "audit")[which]
    lines = path.read_bytes().splitlines(keepends=True)
    if kind == "changed" and which == 1:
        lines = [line.replace(b'"score":0.07', b'"score":0.03') for line in lines]  # one to be changed, changed already
    after = tamper(lines)
    assert after != lines
    path.write_bytes(b"".join(after))
    verdict = verify(logged.state)
    assert verdict.faults
    if which == 0 and kind not in ("cut off", "empty", "the first missing", "missing"):
        assert any(words in str(fault) for fault in verdict.faults)
    # The agent goes on with what is left, says so, and the fault stays to be found.
    logged.open()
    logged.results(2, month="2026-12")
    assert logged.log is not None
    assert logged.log.follow() == NUMBER + 2
    assert verify(logged.state).faults
    # At a start it looks at the end alone: a change in place is for `verify` to find.
    if which == 1 and kind not in ("changed", "swapped"):
        assert logged.problem is not None
        assert "cxr-edge audit verify" in logged.problem


def test_a_file_removed_is_found(logged: Device) -> None:
    for path in files_of(logged.state / "audit"):
        data = path.read_bytes()
        path.unlink()
        assert verify(logged.state).faults
        path.write_bytes(data)
    assert verify(logged.state).faults == []


def rewrite(lines: list[bytes], at: int) -> list[bytes]:
    """What one does who knows how the chain is made: change a line and compute every later hash again."""
    from firmware_bridge.audit_line import write_line

    out, prev = lines[:at], json.loads(lines[at])["prev"]
    for raw in lines[at:]:
        fields = {key: value for key, value in json.loads(raw).items() if key not in ("prev", "hash")}
        if fields.get("score"):
            fields["score"] = 0.99
        line, prev = write_line(fields, prev=prev)
        out.append(line)
    return out


def test_a_chain_computed_again_is_found_by_the_head_that_left_the_device(logged: Device) -> None:
    published = verify(logged.state).head
    path = files_of(logged.state / "audit")[1]
    path.write_bytes(b"".join(rewrite(path.read_bytes().splitlines(keepends=True), 2)))
    faults = " ".join(map(str, verify(logged.state).faults))
    assert "noted in the journal, is missing" in faults  # by the journal
    assert "is not the one of line" in faults  # by its records
    assert any("no line has the hash" in str(fault) for fault in verify(logged.state, head=published).faults)


def forge(device: Device, **fields: object) -> None:
    """A line with hashes that fit, behind the last one."""
    from firmware_bridge.audit_line import write_line

    last = read_line(device.lines()[-1])
    assert last is not None
    raw, _ = write_line({"n": last.n + 1, **fields}, prev=last.hash)
    month = fields.get("month")
    path = device.state / "audit" / f"audit-{month}.jsonl" if month else files_of(device.state / "audit")[-1]
    with path.open("ab") as file:
        file.write(raw)


FORGED: dict[str, dict[str, object]] = {
    "a result": {"kind": "result", "seq": NUMBER + 1, "time": "2026-12-24T10:00:00.000Z", "decision": "negative"},
    "an old result": {"kind": "result", "seq": 3, "time": "2026-12-24T10:00:00.000Z", "decision": "negative"},
    "a month": {"kind": "month", "time": "9999-12-01T00:00:00.000Z", "month": "9999-12", "after": "x"},
    "a start": {"kind": "start", "time": "2026-12-24T10:00:00.000Z"},
    "an exchange": {"kind": "note", "time": "2026-12-24T10:00:00.000Z", "what": "journal", "seq": NUMBER},
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_line_that_somebody_else_wrote_behind_the_last_is_found_and_set_aside(logged: Device, kind: str) -> None:
    forge(logged, **FORGED[kind])
    assert [fault for fault in verify(logged.state).faults if "somebody else wrote it" in str(fault)]
    logged.open()
    logged.results(2, month="2026-12")
    assert logged.log is not None
    assert logged.log.follow() == NUMBER + 2
    assert logged.seqs() == list(range(1, NUMBER + 3))
    assert logged.problem is not None
    assert "set aside" in logged.problem
    assert [path.name for path in files_of(logged.state / "audit")] == ["audit-2026-11.jsonl", "audit-2026-12.jsonl"]
    faults = " ".join(map(str, verify(logged.state).faults))
    assert "had not written" in faults
    assert len(list((logged.state / "audit").glob("foreign-*"))) == 1


def test_a_foreign_file_is_found(logged: Device) -> None:
    forged = read_line(logged.lines()[0])
    assert forged is not None
    (logged.state / "audit" / "audit-9999-12.jsonl").write_bytes(logged.lines()[0])
    assert verify(logged.state).faults
    log = logged.open()
    logged.results(1, month="2026-12")
    assert log.follow() == NUMBER + 1
    assert files_of(logged.state / "audit")[-1].name == "audit-2026-12.jsonl"
    assert verify(logged.state).faults


@pytest.mark.parametrize("month", ["2026-12", "2027-01"])
def test_lines_that_a_kill_left_behind_the_noted_head_are_ours(logged: Device, month: str) -> None:
    log = logged.open()
    log.follow()
    before = log.head
    logged.results(3, month=month)
    log.follow()
    log._store.anchor(before)
    logged.close()
    assert verify(logged.state).faults == []
    assert logged.open().follow() == NUMBER + 3
    assert logged.problem is None
    assert verify(logged.state).faults == []
    assert logged.seqs() == list(range(1, NUMBER + 4))


def test_a_result_changed_in_the_journal_is_found(logged: Device) -> None:
    import sqlite3

    database = sqlite3.connect(logged.journal.path)
    database.execute("UPDATE result SET record=replace(record, 'negative', 'positive') WHERE seq=2")
    database.commit()
    database.close()
    assert [str(fault) for fault in verify(logged.state).faults] == ["result 2 in the journal is not the one of line 3"]


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_what_a_power_cut_tears_is_mended_and_told(logged: Device, cut: int) -> None:
    """The journal's note is older than the log's end: what is torn was never reported."""
    device = logged
    log = device.open()
    log.follow()
    before = log.head
    device.results(3, month="2026-12")
    log.follow()
    log._store.anchor(before)  # as the journal is after a power cut: the note of the head was not synced
    device.close()
    path = files_of(device.state / "audit")[-1]
    whole = path.read_bytes()
    path.write_bytes(whole[: before.end_bytes + cut])
    log = device.open()
    assert log.follow() == NUMBER + 3
    assert device.problem is None
    verdict = verify(device.state)
    assert verdict.faults == []
    assert len(verdict.notes) == 1
    assert "half-written bytes were cut off" in verdict.notes[0]
    assert device.seqs() == list(range(1, NUMBER + 4))


def test_a_month_begun_without_its_first_line(logged: Device) -> None:
    (logged.state / "audit" / "audit-2027-01.jsonl").touch()
    log = logged.open()
    logged.results(1, month="2027-01")
    assert log.follow() == NUMBER + 1
    assert verify(logged.state).faults == []


def test_the_clock_set_back_by_a_month(logged: Device) -> None:
    log = logged.open()
    logged.results(1, month="2026-10")
    log.follow()
    assert verify(logged.state).faults == []
    assert files_of(logged.state / "audit")[-1].name == "audit-2026-12.jsonl"


def test_a_kill_between_journal_and_log_loses_and_doubles_nothing(logged: Device) -> None:
    logged.results(3)  # in the journal alone
    assert verify(logged.state).waiting == 3
    for _ in range(2):
        assert logged.open().follow() == NUMBER + 3
        logged.close()
    assert logged.seqs() == list(range(1, NUMBER + 4))
    assert verify(logged.state).faults == []


def test_a_journal_exchanged_is_told_and_the_log_goes_on(logged: Device) -> None:
    logged.journal.close()
    for path in logged.state.glob("journal.sqlite*"):
        path.unlink()
    again = Device(logged.state)
    log = again.open()
    again.results(2)
    assert log.follow() == 2
    verdict = verify(again.state)
    assert verdict.faults == []
    assert "another journal" in verdict.notes[0]
    again.close()
    again.journal.close()


def test_the_file_removed_under_a_running_agent(logged: Device) -> None:
    log = logged.open()
    files_of(logged.state / "audit")[-1].unlink()
    logged.results(1, month="2026-12")
    assert log.follow() == NUMBER + 1
    assert logged.problem is not None
    assert verify(logged.state).faults


FULL_DISK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_audit import Device
from firmware_bridge.audit_verify import verify
from firmware_bridge.errors import ResourceError

# The audit folder alone lies on the small disk.
device = Device(Path("state"))
log = device.open()
filler = Path(sys.argv[1]) / "filler"
filler.write_bytes(bytes(40 * 1024))
reported = 0
for _ in range(60):
    device.results(5)
    try:
        reported = log.follow()
    except ResourceError as error:
        assert "nothing is reported without its line" in error.expected
        break
else:
    raise SystemExit("the disk never filled")
assert reported < device.made
assert verify(device.state).waiting == device.made - log.head.seq > 0
assert verify(device.state).faults == [], verify(device.state).faults
filler.unlink()
assert log.follow() == device.made
assert verify(device.state).faults == [] and verify(device.state).waiting == 0
assert device.seqs() == list(range(1, device.made + 1))
print("good")
"""


def test_a_full_disk_stops_the_log_whole(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small tmpfs in a namespace of its own")
    audit = tmp_path / "state" / "audit"
    audit.mkdir(parents=True)
    script = tmp_path / "full.py"
    script.write_text(FULL_DISK)
    shell = 'mount -t tmpfs -o size=64k small "$1" && cd "$2" && exec "$3" full.py "$1" "$4"'
    here = str(Path(__file__).parent)
    arguments = ["sh", str(audit), str(tmp_path), sys.executable, here]
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", shell, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.strip() == "good", done.stderr


def test_a_log_that_cannot_be_written_says_what_stops(device: Device) -> None:
    (device.state / "audit").touch()
    log = device.open()
    device.results(1)
    with pytest.raises(ResourceError, match="nothing is reported without its line"):
        log.follow()
    (device.state / "audit").unlink()
    assert log.follow() == 1


def test_nothing_that_is_no_log_is_called_whole(device: Device) -> None:
    assert verify(device.state).faults[0].what == "there is no audit log"


def test_months() -> None:
    assert month_after("2026-12") == "2027-01"
    assert month_after("2026-01") == "2026-02"
    assert month_after("") == ""
    assert Verdict().faults == []


def test_nothing_is_reported_before_its_line(device: Device) -> None:
    """By whatever way: MQTT asks for what is unsent, DICOM and heat maps for what is new."""
    device.results(3)
    device.journal.reportable = 2
    assert [seq for seq, _ in device.journal.unsent()] == [1, 2]
    assert [stored.seq for stored in device.journal.results()] == [1, 2]
    device.journal.reportable = device.open().follow()
    assert [stored.seq for stored in device.journal.results()] == [1, 2, 3]
