"""1, 2, 4, 8 agents on one shared stream, each with a share of a core: how much faster, how fair, what a death costs.

Short in `make test`; `make soak-stream` measures what docs/many-agents.md says.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from firmware_bridge.bundle import open_bundle
from firmware_bridge.shipped import shipped_bundle
from tests.end_to_end.conftest import Xrays
from tests.end_to_end.ward import Run, Ward, jain

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Mosquitto

pytestmark = pytest.mark.mosquitto
SHARE = 0.12


def measure(folder: Path, mosquitto: Mosquitto, bundle: Path, xrays: Xrays, *, count: int, each: int) -> Run:
    home = folder / f"of{count}"
    home.mkdir()
    with Ward(home, mosquitto, bundle, count=count) as ward:
        return ward.measure(xrays, requests=count * each, share=SHARE)


def test_two_agents_do_more_than_one(tmp_path: Path, mosquitto: Mosquitto, bundle_file: Path, xrays: Xrays) -> None:
    mosquitto.start()
    one, two = (measure(tmp_path, mosquitto, bundle_file, xrays, count=count, each=80) for count in (1, 2))
    sys.stdout.write(f"{one}\n{two}\n")
    assert one.each == [80]
    assert sum(two.each) == 160
    assert jain(two.each) > 0.95
    if two.cores > 0.8 * sum(two.shares):  # else the machine was too busy to give them their shares
        assert two.rate > 1.4 * one.rate


@pytest.fixture
def shipped(samples: Path) -> tuple[Path, Xrays]:
    """The model that ships, and X-rays whose result ids are known."""
    bundle = shipped_bundle()
    with open_bundle(bundle) as opened:
        return bundle, Xrays(samples, opened.id)


@pytest.mark.soak
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_results_per_second(tmp_path: Path, mosquitto: Mosquitto, shipped: tuple[Path, Xrays], count: int) -> None:
    bundle, xrays = shipped
    mosquitto.start()
    run = measure(tmp_path, mosquitto, bundle, xrays, count=count, each=200)
    sys.stdout.write(f"{run}\n")
    run.keep("equal")
    assert sum(run.each) == run.requests
    assert jain(run.each) > 0.95


@pytest.mark.soak
def test_one_slow_agent_among_four(tmp_path: Path, mosquitto: Mosquitto, shipped: tuple[Path, Xrays]) -> None:
    """The broker deals requests out one by one, whoever is behind: the slow one has its quarter of them."""
    bundle, xrays = shipped
    mosquitto.start()
    with Ward(tmp_path, mosquitto, bundle, count=4) as ward:
        run = ward.measure(xrays, requests=400, share=[SHARE / 3, SHARE, SHARE, SHARE])
    sys.stdout.write(f"one slow: {run}\n")
    run.keep("one slow")
    assert sum(run.each) == run.requests


@pytest.mark.soak
@pytest.mark.parametrize("count", [2, 8])
def test_agents_die_and_come_back_mid_stream(
    tmp_path: Path, mosquitto: Mosquitto, shipped: tuple[Path, Xrays], count: int
) -> None:
    bundle, xrays = shipped
    mosquitto.start()
    ids, deaths, begun_s = set(), 0, time.monotonic()
    with Ward(tmp_path, mosquitto, bundle, count=count) as ward:
        ward.limit(SHARE)
        while deaths < 20:
            for _ in range(25 * count):
                image = xrays.make()
                ids.add(xrays.id_of(image))
                ward.ask(image)
            time.sleep(random.uniform(0.5, 3.0))
            at_work = [number for number in range(count) if ward.is_at_work(number)]
            if at_work:
                ward.agents[random.choice(at_work)].kill()
                deaths += 1
            if deaths % 2 == 0 or not at_work:  # now and then two are dead at once
                ward.revive()
        ward.revive()
        ward.wait()
        seconds = time.monotonic() - begun_s
        assert [agent.terminate() for agent in ward.agents] == [0] * count
        again, waits_s = ward.check(ids), ward.waits_s()
    sys.stdout.write(
        f"{count} agents, {deaths} killed at work, {len(ids)} requests in {seconds:.0f} s: 0 lost, 0 twice; "
        f"{again} answers came again under their id; an answer took {waits_s[len(waits_s) // 2]:.1f} s in the middle, "
        f"{waits_s[-1]:.1f} s at most\n"
    )
