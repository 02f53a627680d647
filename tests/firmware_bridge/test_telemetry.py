"""Telemetry: what the kernel tells, with units; what it does not tell is not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware_bridge.journal import Arrival, Journal, Outcome
from firmware_bridge.metrics import exposition
from firmware_bridge.telemetry import Telemetry, latencies_ms


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "state")
    yield opened
    opened.close()


def raspberry(root: Path, *, throttled: str, temperatures: list[str]) -> Path:
    """The files of a Raspberry Pi, as its kernel writes them."""
    firmware = root / "sys" / "devices" / "platform" / "soc" / "soc:firmware"
    firmware.mkdir(parents=True)
    (firmware / "get_throttled").write_text(throttled)
    for number, text in enumerate(temperatures):
        zone = root / "sys" / "class" / "thermal" / f"thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(text)
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "status").write_text("Name:\tpython\nVmRSS:\t   81234 kB\n")
    (root / "proc" / "meminfo").write_text("MemTotal:        3884348 kB\nMemAvailable:    3120000 kB\n")
    return root


def test_a_raspberry_pi_that_is_hot_and_short_of_power(tmp_path: Path, journal: Journal) -> None:
    root = raspberry(tmp_path / "root", throttled="50005\n", temperatures=["48312\n", "61700\n", ""])
    facts = Telemetry(journal, waiting=lambda: 3, root=root).sample()
    assert facts["temperature_c"] == 61.7
    assert (facts["under_voltage"], facts["throttled"], facts["frequency_capped"]) == (True, True, False)
    assert (facts["throttled_since_boot"], facts["soft_temperature_limit_since_boot"]) == (True, False)
    assert facts["memory_used_bytes"] == 81234 * 1024
    assert facts["memory_available_bytes"] == 3120000 * 1024
    assert facts["waiting_files"] == 3
    json.dumps(facts, allow_nan=False)


def test_each_value_is_explained_to_prometheus(tmp_path: Path, journal: Journal) -> None:
    root = raspberry(tmp_path / "root", throttled="50005\n", temperatures=["48312\n"])
    facts = Telemetry(journal, waiting=lambda: 3, root=root).sample()
    facts |= latencies_ms(['{"timings_ms": {"decode": 1.0, "infer": 2.0}}'])
    snapshot = {
        "device": "pi",
        "bundle": {"id": "b"},
        "this_run": {"scored": 0, "positive": 0, "refused": 0},
        "problems": {},
        "broker": None,
        "outboxes": {"fhir": {"waiting": 3, "parked": 1, "sent": 8}},
        "audit": None,
    }
    text = exposition(snapshot, facts)
    assert 'cxr_edge_reports_parked{part="fhir"} 1\n' in text
    assert "# HELP cxr_edge_infer_p95_seconds Inference, 95th percentile of the latest results.\n" in text
    assert "cxr_edge_under_voltage_since_boot 1\n" in text


@pytest.mark.parametrize(("text", "throttled"), [("0\n", False), ("0x4\n", True), ("throttled=0x50004\n", True)])
def test_both_ways_of_writing_the_bits(tmp_path: Path, journal: Journal, text: str, throttled: bool) -> None:
    root = raspberry(tmp_path / "root", throttled=text, temperatures=[])
    assert Telemetry(journal, waiting=lambda: 0, root=root).sample()["throttled"] is throttled


def test_what_nobody_tells_is_left_out(tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no vcgencmd
    facts = Telemetry(journal, waiting=lambda: 0, root=tmp_path / "nothing").sample()
    missing = {"temperature_c", "throttled", "under_voltage", "memory_used_bytes", "infer_p50_ms"}
    assert missing.isdisjoint(facts)
    assert None not in facts.values()
    assert facts["results"] == 0


def test_vcgencmd_where_the_kernel_has_no_such_file(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text('#!/bin/sh\n[ "$1" = get_throttled ] && echo throttled=0x50000\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    facts = Telemetry(journal, waiting=lambda: 0, root=tmp_path / "nothing").sample()
    assert (facts["under_voltage"], facts["under_voltage_since_boot"]) == (False, True)


def test_on_this_machine(journal: Journal, tmp_path: Path) -> None:
    arrival = Arrival(tmp_path / "a", "0" * 64, 1, 1)
    (row,) = journal.take([arrival])
    record = json.dumps({"timings_ms": {"decode": 2.0, "preprocess": 1.0, "infer": 5.0}})
    journal.settle([Outcome(row.seq, row.path, "id", record)])
    facts = Telemetry(journal, waiting=lambda: 0).sample()
    assert facts["memory_used_bytes"] > 10 * 2**20
    assert 0 < facts["disk_free_bytes"] <= facts["disk_total_bytes"]
    assert (facts["results"], facts["unsent_results"]) == (1, 1)
    assert (facts["decode_p50_ms"], facts["infer_p95_ms"]) == (2.0, 5.0)


def test_percentiles_by_nearest_rank() -> None:
    records = [json.dumps({"timings_ms": {"infer": float(n)}}) for n in range(1, 101)] + ['{"refused": {}}']
    assert latencies_ms(records) == {"infer_p50_ms": 50.0, "infer_p95_ms": 95.0}
    assert latencies_ms([]) == {}
