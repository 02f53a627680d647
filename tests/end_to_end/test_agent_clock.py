"""A real agent whose clock is set while it runs."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from firmware_bridge.audit_verify import verify
from tests.end_to_end.conftest import until as wait

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Agent, Xrays

until = partial(wait, timeout_s=90.0)  # a machine that has much else to do

DAY_S = 86_400


def faketime() -> Path:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("a clock that is set needs libfaketime: apt-get install faketime")
    return found[0]


def test_the_clock_set_back_by_a_day_while_it_runs(agent: Agent, xrays: Xrays, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    environment = {
        "LD_PRELOAD": str(faketime()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # the kernel's does not go back either
        "NO_FAKE_STAT": "1",
    }
    agent.start("--settle", "0.2", "--grace", "0.5", environment=environment)
    until(lambda: "watching" in agent.log.read_text())
    ids = [xrays.put(agent.watch / "1.jpg")]
    until(lambda: agent.json("1.jpg"))
    clock.write_text("-1d\n")
    # One that is dated by the old clock, a day ahead now; one by the new; one that is damaged and dated by the old.
    ids.append(xrays.put(agent.watch / "ahead.jpg"))
    yesterday = tmp_path / "new.jpg"
    ids.append(xrays.put(yesterday))
    os.utime(yesterday, (time.time() - DAY_S, time.time() - DAY_S))
    yesterday.rename(agent.watch / "new.jpg")
    (agent.watch / "damaged.jpg").write_bytes(b"no image")
    for name in ("ahead.jpg", "new.jpg", "damaged.jpg"):
        until(lambda name=name: agent.json(name), what=name)
    assert agent.json("new.jpg")["time"] < agent.json("1.jpg")["time"]
    assert "refused" in agent.json("damaged.jpg")
    until(lambda: agent.journal("SELECT count(*) FROM intake WHERE state!='done'") == [(0,)])
    assert agent.terminate() == 0
    scored = {id for (id,) in agent.journal("SELECT id FROM result WHERE record NOT LIKE '%\"refused\"%'")}
    assert scored == set(ids)
    assert agent.journal("SELECT count(*) FROM result") == [(4,)]
    assert verify(agent.state).faults == []
    # And started again with the clock where it was: nothing is scored twice.
    assert agent.run("--settle", "0.2", "--grace", "0.5") == 0
    assert agent.journal("SELECT count(*) FROM result") == [(4,)]
