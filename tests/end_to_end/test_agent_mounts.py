"""A watched folder whose disk goes away and comes back; things in a folder that are no files."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from firmware_bridge.status import ask
from tests.end_to_end.conftest import until

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Agent, Xrays

FAST = ("--settle", "0.1", "--grace", "0.5")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@contextmanager
def disk_on(folder: Path, source: Path) -> Iterator[None]:
    """What is in `source`, mounted on `folder`: a disk that can be taken away and brought back as it was."""
    if subprocess.run(["mount", "--bind", source, folder], capture_output=True).returncode:
        pytest.skip("a disk that goes away needs a bind mount, and this root may not make one")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@needs_root
def test_a_disk_that_is_unmounted_and_mounted_again(agent: Agent, xrays: Xrays, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with disk_on(agent.watch, disk):
        first = xrays.put(agent.watch / "1.jpg")
        agent.start(*FAST)
        until(lambda: agent.json("1.jpg"), timeout_s=90)
        # It goes back to its place after its JSON; a disk pulled between keeps it in .cxr-claimed until the next start.
        until(lambda: (agent.watch / "1.jpg").exists())
    time.sleep(6.0)  # the agent looks every 5 s which folder it watches
    assert agent.running
    second = xrays.put(disk / "2.jpg")
    with disk_on(agent.watch, disk):
        assert until(lambda: agent.json("2.jpg"), timeout_s=90)["id"] == second
        third = xrays.put(agent.watch / "3.jpg")
        assert until(lambda: agent.json("3.jpg"), timeout_s=90)["id"] == third, "the new mount is watched"
        until(lambda: agent.journal("SELECT count(*) FROM intake WHERE state!='done'") == [(0,)], timeout_s=90)
        assert agent.terminate() == 0
        assert sorted(path.name for path in disk.iterdir() if path.suffix == ".jpg") == ["1.jpg", "2.jpg", "3.jpg"]
    assert agent.journal("SELECT id FROM result ORDER BY seq") == [(first,), (second,), (third,)]


def test_a_folder_that_is_removed_and_made_again(agent: Agent, xrays: Xrays, tmp_path: Path) -> None:
    agent.start(*FAST)
    first = xrays.put(agent.watch / "1.jpg")
    until(lambda: agent.json("1.jpg"), timeout_s=90)
    until(lambda: agent.journal("SELECT count(*) FROM intake WHERE state!='done'") == [(0,)], timeout_s=90)
    agent.watch.rename(tmp_path / "away")
    time.sleep(6.0)
    assert agent.running
    agent.watch.mkdir()
    second = xrays.put(agent.watch / "2.jpg")
    assert until(lambda: agent.json("2.jpg"), timeout_s=90)["id"] == second
    assert agent.terminate() == 0
    assert agent.journal("SELECT id FROM result ORDER BY seq") == [(first,), (second,)]


@needs_root
def test_one_small_disk_for_state_and_folder_that_fills_up(agent: Agent, xrays: Xrays, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small disk needs a tmpfs, and this root may not mount one")
    try:
        agent.watch, agent.state = disk / "watched", disk / "state"
        agent.watch.mkdir()
        agent.start(*FAST)
        ids = [xrays.put(agent.watch / "1.jpg")]
        until(lambda: agent.json("1.jpg"))
        filler = disk / "filler"
        # Below the reserve (5% of a small disk), with room for two more X-rays: the intake waits, senders need not.
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - 700_000))
        until(lambda: "the disk is nearly full, intake waits" in agent.log.read_text())
        problems = until(lambda: ask(agent.state))["problems"]
        assert "nearly full" in problems["disk"]
        ids += [xrays.put(agent.watch / "2.jpg"), xrays.put(agent.watch / "3.jpg")]
        time.sleep(1.5)
        assert agent.running
        assert agent.journal("SELECT count(*) FROM intake") == [(1,)]
        filler.unlink()
        for name in ("2.jpg", "3.jpg"):
            until(lambda name=name: agent.json(name))
        until(lambda: agent.journal("SELECT count(*) FROM intake WHERE state!='done'") == [(0,)])
        assert "disk" not in until(lambda: ask(agent.state))["problems"]
        assert agent.terminate() == 0
        assert sorted(agent.journal("SELECT id FROM result")) == sorted((id,) for id in ids)
    finally:
        if agent.running:
            agent.kill()
        subprocess.run(["umount", "--lazy", disk], check=True)


@needs_root
def test_a_read_only_state_folder_ends_the_start_and_touches_no_x_ray(agent: Agent, xrays: Xrays) -> None:
    id = xrays.put(agent.watch / "1.jpg", old=True)
    agent.state.mkdir()
    with disk_on(agent.state, agent.state):
        subprocess.run(["mount", "-o", "remount,bind,ro", agent.state], check=True)
        assert agent.run(*FAST) == 8
        said = agent.log.read_text()
        assert "a state folder that this user can write" in said
        assert "Traceback" not in said
        assert [path.name for path in agent.watch.rglob("*")] == ["1.jpg"]
    assert agent.run(*FAST) == 0
    assert agent.json("1.jpg")["id"] == id


def test_sockets_and_devices_are_left_alone(agent: Agent, xrays: Xrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(agent.watch)  # a socket's path is short (unix(7)), a test's folder is not
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
        odd = [agent.watch / "socket.jpg"]
        if os.geteuid() == 0:
            os.mknod("null.jpg", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
            os.mknod("disk.jpg", 0o600 | stat.S_IFBLK, os.makedev(7, 250))
            odd += [agent.watch / "null.jpg", agent.watch / "disk.jpg"]
        monkeypatch.undo()
        xrays.put(agent.watch / "1.jpg", old=True)
        assert agent.run() == 0
        assert agent.json("1.jpg") is not None
        assert all(os.path.lexists(path) for path in odd)
        assert [path.name for path in agent.watch.rglob("*.cxr.json")] == ["1.jpg.cxr.json"]
    assert agent.journal("SELECT count(*) FROM intake") == [(1,)]
