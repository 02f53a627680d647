"""The agent beside people who mean it harm or are careless, and can write into the watched folder."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.conftest import until

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Agent, Xrays


def test_nothing_is_filed_through_a_link(agent: Agent, xrays: Xrays, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("rejected", "done"):
        (agent.watch / name).symlink_to(elsewhere)
    (agent.watch / "job").write_text("* * * * * root id\n")
    os.utime(agent.watch / "job", (1, 1))
    id = xrays.put(agent.watch / "1.jpg", old=True)
    assert agent.run("--done", "move") == 0
    assert list(elsewhere.iterdir()) == []
    assert agent.json("1.jpg")["id"] == id
    assert "refused" in agent.json("job")


@pytest.mark.parametrize("kind", ["state", "bundle", "config"])
def test_our_own_files_are_not_watched(agent: Agent, tmp_path: Path, kind: str) -> None:
    config = tmp_path / "agent.toml"
    config.write_text("[log]\n")
    if kind == "state":
        agent.state = agent.watch / "state"
    elif kind == "bundle":
        agent.bundle = Path(shutil.copy(agent.bundle, agent.watch / "b.cxr"))
    else:
        config = Path(shutil.copy(config, agent.watch / "agent.toml"))
    assert agent.run("--config", str(config)) == 2
    assert "lies in the watched folder" in agent.log.read_text()
    assert not (agent.watch / "rejected").exists()


def test_a_hidden_state_folder_may_lie_in_the_watched_one(agent: Agent, xrays: Xrays) -> None:
    agent.state = agent.watch / ".state"
    xrays.put(agent.watch / "1.jpg", old=True)
    assert agent.run() == 0
    assert agent.json("1.jpg")


def test_a_path_too_long_for_the_kernel_keeps_no_other_file_from_being_found(agent: Agent, xrays: Xrays) -> None:
    handle = os.open(agent.watch, os.O_RDONLY)
    left = 4090 - len(str(agent.watch))  # PATH_MAX is 4096: the folder can be read, its file not be looked at
    while left:
        name = "d" * min(250, left - 1)
        os.mkdir(name, dir_fd=handle)
        below = os.open(name, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle, left = below, left - len(name) - 1
    os.close(os.open("far-away.jpg", os.O_WRONLY | os.O_CREAT, dir_fd=handle))
    os.close(handle)
    for name in "az":
        (agent.watch / name).mkdir()
        xrays.put(agent.watch / name / "1.jpg", old=True)
    assert agent.run() == 0
    assert agent.json("a/1.jpg")
    assert agent.json("z/1.jpg")


def test_a_storm_of_signals(agent: Agent, xrays: Xrays, tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text("[log]\n")
    agent.start("--config", str(config))
    until(lambda: "watching" in agent.log.read_text())
    assert agent.pid is not None
    for number in range(5_000):
        os.kill(agent.pid, signal.SIGHUP)
        if number % 50 == 0:
            time.sleep(0.001)
    id = xrays.put(agent.watch / "1.jpg")
    assert until(lambda: agent.json("1.jpg"))["id"] == id
    until(lambda: "nothing changed" in agent.log.read_text())
    assert agent.terminate() == 0
    assert "Traceback" not in agent.log.read_text()


def test_a_name_cannot_write_lines_of_its_own_into_the_log(agent: Agent) -> None:
    forged = "\n2026-11-24 00:00:00,000 ERROR forged\x1b[2J"
    (agent.watch / f"1{forged}.jpg").write_bytes(b"no image")
    os.utime(agent.watch / f"1{forged}.jpg", (1, 1))
    assert agent.run("--names") == 0
    log = agent.log.read_text()
    assert "ERROR forged" in log
    assert "\n2026-11-24 00:00:00,000 ERROR forged" not in log
    assert "\x1b" not in log
