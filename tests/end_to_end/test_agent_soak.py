"""Killed again and again, full disks, floods: nothing lost, nothing twice. Short here; `make soak` runs it long."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Agent, Xrays

# `make soak` sets these; the figures in docs/soak.md name theirs.
KILLS = int(os.environ.get("CXR_EDGE_SOAK_KILLS", "10"))
XRAYS = int(os.environ.get("CXR_EDGE_SOAK_XRAYS", "1500"))
AT_ONCE = int(os.environ.get("CXR_EDGE_SOAK_AT_ONCE", "300"))
BACKLOG = int(os.environ.get("CXR_EDGE_SOAK_BACKLOG", "3000"))
WAIT_S = float(os.environ.get("CXR_EDGE_SOAK_WAIT_S", "120"))
FAST = ("--settle", "0.1", "--grace", "0.3", "--quiet")


def wait_for(condition: Callable[[], object], what: Callable[[], object] | str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, what() if callable(what) else what
        time.sleep(0.05)


@pytest.fixture
def second(agent: Agent, tmp_path: Path) -> Iterator[Agent]:
    """Another agent on the same folder, with a state of its own."""
    (tmp_path / "second").mkdir()
    other = type(agent)(tmp_path / "second", agent.bundle)
    other.watch.rmdir()
    other.watch = agent.watch
    yield other
    if other.running:
        other.kill()


def resident_kb(agent: Agent) -> int:
    text = Path(f"/proc/{agent.pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])


def let_it_work(agent: Agent) -> None:
    """Until a random moment: while it starts, or in the middle of its work, however slow the machine is."""
    if random.random() < 0.3:
        time.sleep(random.uniform(0.1, 1.5))
        return
    before, deadline_s = scored(agent), time.monotonic() + WAIT_S
    while agent.running and scored(agent) == before and time.monotonic() < deadline_s:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.2))


def jsons(folder: Path) -> dict[str, str]:
    """X-ray -> the id beside it; every JSON must be whole."""
    found = {}
    for path in folder.rglob("*.cxr.json"):
        record = json.loads(path.read_bytes())
        assert "probability" in record, record
        found[path.name.removesuffix(".cxr.json")] = record["id"]
    return found


def check(agents: list[Agent], ids: dict[str, str]) -> None:
    """None lost, none twice, nothing half done."""
    watch = agents[0].watch
    assert jsons(watch) == ids
    results = [id for one in agents for (id,) in one.journal("SELECT id FROM result")]
    assert sorted(results) == sorted(ids.values()), "each id once, over all agents"
    for one in agents:
        assert one.journal("PRAGMA integrity_check") == [("ok",)]
        assert one.journal("SELECT count(*) FROM intake WHERE state IN ('taken', 'scored')") == [(0,)]
    images = [path for path in watch.rglob("*.jpg") if ".cxr-claimed" not in path.parts]
    assert sorted(path.name for path in images) == sorted(ids)
    assert [path for path in watch.rglob(".*") if path.name != ".cxr-claimed"] == []


@pytest.mark.parametrize("done", ["stay", "move"])
def test_killed_at_random_moments_under_load(agent: Agent, xrays: Xrays, done: str) -> None:
    ids: dict[str, str] = {}
    for turn in range(KILLS):
        for number in range(20):
            name = f"{turn} {number}.jpg"
            ids[name] = xrays.put(agent.watch / name, old=number % 2 == 0)
        agent.start("--done", done, *FAST)
        let_it_work(agent)
        agent.kill()
    agent.start("--done", done, *FAST)
    wait_for(lambda: len(jsons(agent.watch)) == len(ids), lambda: f"{len(jsons(agent.watch))} of {len(ids)}")
    wait_for(lambda: agent.journal("SELECT count(*) FROM intake WHERE state!='done'") == [(0,)], "all accounted for")
    assert agent.terminate() == 0
    check([agent], ids)


def test_two_agents_on_one_folder_killed_at_random_moments(agent: Agent, second: Agent, xrays: Xrays) -> None:
    ids: dict[str, str] = {}
    both = [agent, second]
    for turn in range(KILLS):
        for number in range(20):
            name = f"{turn} {number}.jpg"
            ids[name] = xrays.put(agent.watch / name, old=number % 2 == 0)
        for one in both:
            if not one.running:
                one.start(*FAST)
        victim = random.choice(both)
        time.sleep(random.uniform(0.1, 4.0))
        victim.kill()
    for one in both:
        if not one.running:
            one.start(*FAST)
    wait_for(lambda: len(jsons(agent.watch)) == len(ids), lambda: f"{len(jsons(agent.watch))} of {len(ids)}")
    settled = "SELECT count(*) FROM intake WHERE state IN ('taken', 'scored')"
    wait_for(lambda: all(one.journal(settled) == [(0,)] for one in both), "all accounted for")
    time.sleep(1.0)
    # One of them may still be starting while the other has done all the work.
    wait_for(lambda: all(answers(one) for one in both), "both have started")
    assert [one.terminate() for one in both] == [0, 0]
    check(both, ids)


def test_a_file_that_is_back_where_it_was_is_not_handed_to_and_fro(agent: Agent, second: Agent, xrays: Xrays) -> None:
    """Each once noted that it was gone, because the other had it; each puts it back, and the other sees it come."""
    xrays.put(agent.watch / "1.jpg", old=True)
    for one in (agent, second):
        assert one.run(*FAST) == 0
        one.journal_write("UPDATE intake SET moved=1")
    for one in (agent, second):
        one.start(*FAST)
    wait_for(lambda: all(answers(one) for one in (agent, second)), "both have started")
    time.sleep(2.0)
    claimed = agent.watch / ".cxr-claimed"
    seen = {entry for _ in range(200) for entry in claims_in(claimed)}
    assert seen == set()
    assert [one.journal("SELECT moved, state FROM intake") for one in (agent, second)] == [[(0, "done")]] * 2
    assert [one.terminate() for one in (agent, second)] == [0, 0]


def claims_in(folder: Path) -> list[str]:
    time.sleep(0.005)
    return [name for _, _, names in os.walk(folder) for name in names if name != ".alive"]


def test_many_files_at_once(agent: Agent, xrays: Xrays, tmp_path: Path) -> None:
    agent.start(*FAST)
    (tmp_path / "batch").mkdir()
    ids = {f"{number}.jpg": xrays.put(tmp_path / "batch" / f"{number}.jpg") for number in range(AT_ONCE)}
    (tmp_path / "batch").rename(agent.watch / "batch")
    wait_for(lambda: len(jsons(agent.watch)) == len(ids), lambda: f"{len(jsons(agent.watch))} of {len(ids)}")
    assert agent.terminate() == 0
    check([agent], ids)


def test_memory_stays_flat_over_many_xrays(agent: Agent, xrays: Xrays) -> None:
    made = 0
    agent.start("--done", "move", *FAST)

    def feed(until: int) -> float:
        """Resident memory meanwhile, in kB: the mean, as tables of Python's own grow and shrink by megabytes."""
        nonlocal made
        seen_kb = []
        while made < until:
            if made - scored(agent) < 400:
                for _ in range(50):
                    xrays.put(agent.watch / f"{made}.jpg")
                    made += 1
            else:
                time.sleep(0.02)
            seen_kb.append(resident_kb(agent))
        wait_for(lambda: scored(agent) == made, lambda: f"{scored(agent)} of {made}")
        return sum(seen_kb) / len(seen_kb)

    feed(XRAYS // 3)  # allocators and caches have found their size by then
    early_kb, late_kb = feed(2 * XRAYS // 3), feed(XRAYS)
    sys.stdout.write(f"{XRAYS} X-rays: {early_kb:.0f} kB resident in the second third, {late_kb:.0f} kB in the last\n")
    assert agent.terminate() == 0
    assert late_kb < early_kb * (1.02 if XRAYS >= 50_000 else 1.10)


def answers(agent: Agent) -> bool:
    """Whether it tells how it is: it has started, and its signal handlers with it."""
    command = [sys.executable, "-m", "toolkit.cli.main", "agent", "status", "--state", str(agent.state), "--json"]
    return subprocess.run(command, capture_output=True, check=False).returncode in (0, 1)


def scored(agent: Agent) -> int:
    try:
        return int(agent.journal("SELECT count(*) FROM intake WHERE state='done'")[0][0])
    except sqlite3.OperationalError:
        return 0  # it has not come so far


def test_a_backlog_is_looked_through_with_flat_memory(agent: Agent, xrays: Xrays) -> None:
    """Files that were there before, all alike in content: scored once, known ever after."""
    # A copy in each folder and links to it: ext4 lets a file have 65,000 names.
    first = agent.watch / "0" / "0.jpg"
    first.parent.mkdir()
    xrays.put(first, old=True)
    for number in range(1, BACKLOG):
        folder = agent.watch / f"{number % 50}"
        if number < 50:
            folder.mkdir()
            shutil.copy2(first, folder / "0.jpg")
        else:
            os.link(folder / "0.jpg", folder / f"{number}.jpg")
    agent.start(*FAST)
    wait_for(lambda: scored(agent) > BACKLOG // 10, "the first tenth")
    early_kb = resident_kb(agent)
    wait_for(lambda: scored(agent) == BACKLOG, lambda: f"{scored(agent)} of {BACKLOG}")
    late_kb = resident_kb(agent)
    sys.stdout.write(f"backlog of {BACKLOG}: {early_kb} kB resident after a tenth, {late_kb} kB at the end\n")
    assert agent.terminate() == 0
    assert agent.journal("SELECT count(*) FROM result") == [(1,)]
    assert late_kb < early_kb * 1.10
