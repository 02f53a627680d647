"""A real agent whose clock is set while it runs."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

from firmware_bridge.audit_verify import verify
from tests.end_to_end.conftest import until as wait

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import Agent, Xrays

until = partial(wait, timeout_s=90.0)  # a machine that has much else to do

DAY_S = 86_400


# The agent itself, whose time of day is as many seconds off as a file says. (libfaketime also bends the sleeps of
# other threads, which the kernel does not when a clock is set.)
OFF = """
import datetime, pathlib, sys, time
clock, real = pathlib.Path(sys.argv.pop(1)), time.time
time.time = lambda: real() + float(clock.read_text())
class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
datetime.datetime = Clock
from toolkit.cli.main import main
main()
"""


def test_the_clock_set_back_by_a_day_while_it_runs(agent: Agent, xrays: Xrays, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("0")
    script = tmp_path / "off.py"
    script.write_text(OFF)
    program, agent.program = agent.program, [str(script), str(clock)]
    agent.start("--settle", "0.2", "--grace", "0.5")
    until(lambda: "watching" in agent.log.read_text())
    ids = [xrays.put(agent.watch / "1.jpg")]
    until(lambda: agent.json("1.jpg"))
    back = tmp_path / "back"
    back.write_text(str(-DAY_S))
    back.rename(clock)  # at once, never half of it
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
    agent.program = program
    # And started again with the clock where it was: nothing is scored twice.
    assert agent.run("--settle", "0.2", "--grace", "0.5") == 0
    assert agent.journal("SELECT count(*) FROM result") == [(4,)]
