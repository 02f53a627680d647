"""The fleet's measurements: the simulated day adds up, and what it rests on is measured from a real broker."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fleet.day import DAY_S, HOUR_S, Assumed, Fleet

MEASURED = Path(__file__).parents[2] / "benchmarks" / "fleet" / "broker.json"
COST_S = {"result": 1e-5, "status": 1e-5, "telemetry": 1e-5}


def day(**assumed: float) -> Fleet:
    fleet = Fleet(Assumed(**{"devices": 15, "xrays_per_day": 100, **assumed}), cost_s=COST_S)  # type: ignore[arg-type]
    fleet.run()
    return fleet


def test_no_result_is_lost_or_doubled_over_a_day_with_outages() -> None:
    fleet = day(away_per_day=20)
    assert abs(fleet.scored - 1500) < 200
    unsent = sum(device.unsent for device in fleet.devices)
    assert len(fleet.ages_s) + unsent == fleet.scored
    assert min(fleet.ages_s) >= 0.02


def test_results_wait_while_the_broker_is_away_and_then_all_go() -> None:
    fleet = day(away_per_day=0.001)
    from_s, back_s = int(10 * HOUR_S), int(12 * HOUR_S)
    assert fleet.per_s["result"][from_s + 1 : back_s].sum() == 0
    assert fleet.unsent[back_s - 1] > 100
    # No device waits for longer than the agent's longest wait between attempts.
    assert fleet.unsent[back_s + 62] < 5
    waited = np.array(fleet.ages_s)
    assert 7000 < waited.max() < 7300


def test_a_slow_broker_is_busy_and_serves_one_after_the_other() -> None:
    slow = {**COST_S, "result": 2.0}
    fleet = Fleet(Assumed(devices=15, xrays_per_day=100, outage_from_s=DAY_S), cost_s=slow)
    fleet.run()
    assert min(fleet.ages_s) >= 2.0
    assert fleet.broker_busy_s == pytest.approx(2.0 * fleet.per_s["result"].sum(), rel=0.01)


def test_the_recorded_measurement_makes_the_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.fleet.simulate", "--measured", str(MEASURED), "--devices", "10"]
    done = subprocess.run(
        [*command, "--plot", str(tmp_path / "fleet.svg")],
        capture_output=True,
        text=True,
        check=True,
        cwd=MEASURED.parents[2],
    )
    assert "unsent results, most" in done.stdout
    assert (tmp_path / "fleet.svg").read_text().startswith("<?xml")


def test_a_real_broker_is_measured(tmp_path: Path) -> None:
    if not shutil.which("mosquitto") and not shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin"):
        pytest.skip("needs the MQTT broker Mosquitto: apt-get install mosquitto")
    out = tmp_path / "broker.json"
    command = [sys.executable, "-m", "benchmarks.fleet.broker", "--devices", "10", "--each", "20", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, cwd=MEASURED.parents[2], timeout=120)
    content = json.loads(out.read_text())
    (run,) = content["runs"]
    assert run["results_per_s"] > 0
    assert run["queued_bytes_per_result"] > len(b"r" * 960) / 2
    # Mosquitto's own limit: what is beyond it is acknowledged, and gone.
    assert content["default_queue"] == {"sent": 3000, "refused": 0, "came": 1000}
