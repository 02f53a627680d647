"""Where files end up, and two agents on one folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Agent, Xrays

WAIT_S = 30.0
NOW = ("--settle", "0", "--grace", "0")


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


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


def test_refused_files_are_set_aside_with_the_reason(agent: Agent, xrays: Xrays) -> None:
    (agent.watch / "study").mkdir()
    (agent.watch / "study" / "bad.jpg").write_bytes(b"no image")
    xrays.put(agent.watch / "good.jpg", old=True)
    assert agent.run(*NOW) == 0
    assert names(agent.watch) == [
        "good.jpg",
        "good.jpg.cxr.json",
        "rejected/study/bad.jpg",
        "rejected/study/bad.jpg.cxr.json",
    ]
    reason = json.loads((agent.watch / "rejected/study/bad.jpg.cxr.json").read_bytes())["refused"]
    assert set(reason) == {"what", "expected", "came", "do"}
    assert agent.run(*NOW) == 0
    assert "0 scored (0 positive), 0 refused" in agent.log.read_text().splitlines()[-1]


def test_done_files_are_moved_when_told_and_never_over_another(agent: Agent, xrays: Xrays) -> None:
    ids = {xrays.put(agent.watch / "a.jpg", old=True)}
    assert agent.run("--done", "move") == 0
    ids.add(xrays.put(agent.watch / "a.jpg", old=True))
    assert agent.run("--done", "move") == 0
    # The very same file once more: recognised, and filed beside the first one.
    shutil.copy2(agent.watch / "done" / "a.jpg", agent.watch / "a.jpg")
    assert agent.run("--done", "move") == 0
    assert "0 scored" in agent.log.read_text().splitlines()[-1]
    found = [name for name in names(agent.watch) if name.endswith(".jpg")]
    assert len(found) == 3
    assert all(name.startswith("done/a") for name in found)
    records = [json.loads((agent.watch / f"{name}.cxr.json").read_bytes()) for name in found]
    assert {record["id"] for record in records} == ids
    for name, record in zip(found, records, strict=True):
        assert xrays.id_of((agent.watch / name).read_bytes()) == record["id"], "each beside its own"
    assert agent.journal("SELECT count(*) FROM result") == [(2,)]


def test_files_of_one_name_are_kept_apart_in_rejected(agent: Agent) -> None:
    for turn in range(3):
        (agent.watch / "bad.jpg").write_bytes(b"no image %d" % turn)
        assert agent.run(*NOW) == 0
    found = [path for path in (agent.watch / "rejected").iterdir() if path.suffix == ".jpg"]
    assert {path.read_bytes() for path in found} == {b"no image 0", b"no image 1", b"no image 2"}
    assert all(path.with_name(f"{path.name}.cxr.json").exists() for path in found)


@pytest.mark.parametrize("done", ["stay", "move"])
def test_two_agents_on_one_folder_score_each_file_once(agent: Agent, second: Agent, xrays: Xrays, done: str) -> None:
    ids = {xrays.put(agent.watch / f"{number}.jpg", old=number % 2 == 0) for number in range(80)}
    for one in (agent, second):
        one.start("--done", done, "--settle", "0.1")
    ids |= {xrays.put(agent.watch / f"new {number}.jpg") for number in range(80)}
    wait_for(lambda: len(list(agent.watch.rglob("*.cxr.json"))) == 160, "all scored")
    time.sleep(1.0)  # what is put back is seen by the other one
    assert [agent.terminate(), second.terminate()] == [0, 0]
    by = [{id for (id,) in one.journal("SELECT id FROM result")} for one in (agent, second)]
    assert by[0] | by[1] == ids
    assert by[0] & by[1] == set(), "none by both"
    scored = [int(re.findall(r"(\d+) scored", one.log.read_text())[-1]) for one in (agent, second)]
    assert sum(scored) == 160
    assert len(list(agent.watch.rglob("*.jpg"))) == 160
    assert [str(path) for path in agent.watch.rglob("*") if ".cxr-claimed" in str(path)] == []


def test_a_picture_that_comes_again_is_reported_again_when_told(agent: Agent, xrays: Xrays, tmp_path: Path) -> None:
    id = xrays.put(agent.watch / "a.jpg", old=True)
    config = tmp_path / "agent.toml"
    config.write_text('[intake]\nrepeated = "report"\n')
    assert agent.run("--config", str(config)) == 0
    with_sent = "UPDATE result SET sent_s=1"
    agent.journal_write(with_sent)
    shutil.copy2(agent.watch / "a.jpg", agent.watch / "b.jpg")
    assert agent.run() == 0
    assert agent.journal("SELECT id, sent_s FROM result") == [(id, 1.0)], "quiet is the default"
    shutil.copy2(agent.watch / "a.jpg", agent.watch / "c.jpg")
    assert agent.run("--config", str(config)) == 0
    assert agent.journal("SELECT id, sent_s FROM result") == [(id, None)]


def test_a_file_that_is_open_for_writing_waits_even_if_it_is_whole(agent: Agent, xrays: Xrays) -> None:
    data = xrays.make()
    with (agent.watch / "open.jpg").open("wb") as file:
        file.write(data)
        file.flush()
        agent.start("--settle", "0.1")
        id = xrays.put(agent.watch / "closed.jpg", old=True)
        wait_for(lambda: agent.json("closed.jpg"), "the closed one")
        time.sleep(1.0)
        assert agent.json("open.jpg") is None
    wait_for(lambda: agent.json("open.jpg"), "the other one, once it is closed")
    assert agent.json("closed.jpg")["id"] == id
    assert agent.json("open.jpg")["id"] == xrays.id_of(data)


@pytest.mark.skipif(os.geteuid() != 0, reason="a read-only folder needs a bind mount, and that needs root")
def test_a_read_only_folder_is_scored_and_the_status_says_so(agent: Agent, xrays: Xrays) -> None:
    ids = {xrays.put(agent.watch / f"{number}.jpg", old=True) for number in range(5)}
    (agent.watch / "bad.jpg").write_bytes(b"no image")
    commands = [["mount", "--bind", agent.watch, agent.watch], ["mount", "-o", "remount,bind,ro", agent.watch]]
    if any(subprocess.run(command, capture_output=True).returncode for command in commands):
        pytest.skip("a read-only folder needs a bind mount, and this root may not make one")
    try:
        agent.start(*NOW)
        wait_for(lambda: "cannot be claimed" in agent.log.read_text(), "the problem")
        wait_for(lambda: "cannot be written: Read-only file system" in agent.log.read_text(), "the other problem")
        wait_for(lambda: agent.journal("SELECT count(*) FROM result") == [(6,)], "the results")
        assert agent.terminate() == 0
    finally:
        if agent.running:
            agent.kill()
        subprocess.run(["umount", agent.watch], check=True)
    assert ids < {id for (id,) in agent.journal("SELECT id FROM result")}
    assert agent.run(*NOW) == 0, "and filed once it can be written"
    assert len(list(agent.watch.glob("*.cxr.json"))) == 5
    assert agent.json("bad.jpg")["refused"]
