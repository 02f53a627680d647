"""A real agent where the kernel does not tell of every file: no watch left, a queue that overflowed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.end_to_end.conftest import until as wait

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Agent, Xrays

until = partial(wait, timeout_s=90.0)  # a machine that has much else to do

FAST = ("--settle", "0.1", "--grace", "0.5")
EVENTS = Path("/proc/sys/fs/inotify/max_queued_events")


def limited(limit: str, number: int) -> list[str]:
    """A command in a user namespace of its own whose limit is that number (namespaces(7), /proc/sys/user)."""
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c", f'echo {number} >/proc/sys/user/{limit} && exec "$@"']
    if subprocess.run([*inside, "sh", "true"], capture_output=True).returncode:
        pytest.skip("a limit of its own needs a user namespace, and none may be made here")
    return [*inside, "sh"]


def status(agent: Agent) -> Any:
    command = [sys.executable, *agent.program, "agent", "--state", str(agent.state), "status", "--json"]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_without_a_watch_the_folder_is_looked_at_and_the_status_says_so(agent: Agent, xrays: Xrays, limit: str) -> None:
    agent.inside = limited(limit, 0)
    agent.start(*FAST)
    until(lambda: "watching" in agent.log.read_text())
    xrays.put(agent.watch / "1.jpg")
    until(lambda: agent.json("1.jpg"))
    found = status(agent)
    assert "max_user_watches" in found["problems"]["watch"]
    assert found["works"]
    assert agent.terminate() == 0
    assert "the kernel cannot watch the folder" in agent.log.read_text()


def test_a_subfolder_without_a_watch_is_looked_at(agent: Agent, xrays: Xrays) -> None:
    for name in ("a", "b", "c"):
        (agent.watch / name).mkdir()
    agent.inside = limited("max_inotify_watches", 2)
    agent.start(*FAST)
    until(lambda: "watching" in agent.log.read_text())
    time.sleep(1.0)  # the first looks are over
    for name in ("a", "b", "c"):
        xrays.put(agent.watch / name / "1.jpg")
    for name in ("a", "b", "c"):
        until(lambda name=name: agent.json(f"{name}/1.jpg"))
    until(lambda: "more subfolders than watches" in status(agent)["problems"].get("watch", ""))
    assert agent.terminate() == 0


def test_files_behind_a_queue_that_overflowed_are_found(agent: Agent, xrays: Xrays) -> None:
    agent.start(*FAST)
    until(lambda: "watching" in agent.log.read_text())
    xrays.put(agent.watch / "0.jpg")
    until(lambda: agent.json("0.jpg"))
    assert agent.pid is not None
    os.kill(agent.pid, signal.SIGSTOP)
    # Two in turn: the kernel makes one event of two alike that follow each other (inotify(7), "Limitations").
    names = [agent.watch / "a.part", agent.watch / "b.part"]
    for number in range(int(EVENTS.read_text()) + 100):
        os.close(os.open(names[number % 2], os.O_WRONLY | os.O_CREAT))
    for number in range(1, 6):
        xrays.put(agent.watch / f"{number}.jpg")
    os.kill(agent.pid, signal.SIGCONT)
    # Without the kernel's word they would be found after `rescan_s`, five minutes.
    until(lambda: all(agent.json(f"{number}.jpg") for number in range(1, 6)))
    assert "overflow" in agent.log.read_text()
    assert agent.terminate() == 0
