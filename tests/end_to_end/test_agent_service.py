"""The agent as a service: watchdog, reload, log, and an audit line for every result whatever happens."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from firmware_bridge.audit_line import files_of, read_line
from firmware_bridge.audit_verify import verify
from firmware_bridge.bundle import open_bundle
from firmware_bridge.status import ask
from tests.end_to_end.conftest import DATA, until
from toolkit.bundle import build_bundle

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Agent, Xrays

KILLS = 12


class Manager:
    """What systemd is to a service: a socket that hears what the agent says of itself."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while message := self._socket.recv(4096):
            self.heard.append(message.decode())

    def environment(self, *, watchdog_s: float | None = None) -> dict[str, str]:
        found = {"NOTIFY_SOCKET": str(self.path)}
        return found if watchdog_s is None else {**found, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}

    def count(self, word: str) -> int:
        return sum(message == word for message in self.heard)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as goodbye:
            goodbye.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


def config(agent: Agent, text: str) -> list[str]:
    path = agent.state.parent / "agent.toml"
    path.write_text(text)
    return ["--config", str(path)]


def test_the_watchdog_is_fed_only_while_the_stages_move(agent: Agent, manager: Manager, xrays: Xrays) -> None:
    options = config(agent, "[service]\nstall_s = 1.0\n")
    agent.start(*options, "--settle", "0.1", environment=manager.environment(watchdog_s=0.6))
    until(lambda: manager.count("WATCHDOG=1") > 3)
    assert agent.journal("SELECT count(*) FROM result") == [(0,)]
    # Somebody holds the journal, as a disk does that does not answer.
    holder = sqlite3.connect(agent.state / "journal.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    xrays.put(agent.watch / "1.jpg")
    until(lambda: any(message.startswith("STATUS=problem: hung: ") for message in manager.heard))
    fed = manager.count("WATCHDOG=1")
    time.sleep(1.0)  # more than two feeds' time
    assert manager.count("WATCHDOG=1") == fed
    holder.execute("COMMIT")
    holder.close()
    until(lambda: agent.json("1.jpg"))
    until(lambda: manager.count("WATCHDOG=1") > fed + 1)
    until(lambda: any(message == "STATUS=1 scored, 0 refused, 0 waiting" for message in manager.heard))
    assert agent.terminate() == 0


def test_sighup_reads_the_config_again(agent: Agent, manager: Manager, xrays: Xrays) -> None:
    options = config(agent, '[log]\nlevel = "warning"\n')
    agent.start(*options, "--settle", "0.1", environment=manager.environment())
    until(lambda: manager.count("READY=1") == 1)
    assert not [line for line in ours(agent) if " INFO " in line]

    config(agent, '[log]\nlevel = "info"\n\n[intake]\nsettle_s = 5.0\n')
    hang_up(agent)
    until(lambda: manager.count("READY=1") == 2)
    (told,) = [message for message in manager.heard if message.startswith("RELOADING=1")]
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", told)
    assert manager.heard.index(told) < len(manager.heard) - 1
    assert "needs a restart of the agent to hold: [intake]" in agent.log.read_text()
    assert "reload: changed: [log]" in agent.log.read_text()

    for broken in ('[log]\nlevel = "loud"\n', "no toml", "[unknown]\n"):
        config(agent, broken)
        before = manager.count("READY=1")
        hang_up(agent)
        until(lambda seen=before: manager.count("READY=1") == seen + 1)
    assert agent.log.read_text().count("reload: the old settings stay") == 3
    xrays.put(agent.watch / "1.jpg")
    until(lambda: agent.json("1.jpg"))
    assert agent.terminate() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_that_is_stopped_while_it_starts_ends_in_order(agent: Agent, manager: Manager, number: int) -> None:
    agent.start(environment=manager.environment())
    until(lambda: agent.minds(number, "SigBlk"))
    assert agent.pid is not None
    os.kill(agent.pid, number)
    assert agent.wait() == 0
    until(lambda: manager.count("STOPPING=1") == 1)
    assert manager.count("READY=1") == 1  # systemd takes an end before it for a failure
    assert "Traceback" not in agent.log.read_text()


def test_a_reload_while_it_starts_is_not_lost(agent: Agent, manager: Manager) -> None:
    agent.start(*config(agent, "[log]\n"), environment=manager.environment())
    until(lambda: agent.minds(signal.SIGHUP, "SigBlk"))
    hang_up(agent)
    until(lambda: manager.count("READY=1") == 2)
    assert agent.terminate() == 0


def ours(agent: Agent) -> list[str]:
    """The log without the line that the runtime writes itself."""
    return [line for line in agent.log.read_text().splitlines() if not line.startswith("INFO: Created TensorFlow Lite")]


def hang_up(agent: Agent) -> None:
    assert agent._process is not None
    agent._process.send_signal(signal.SIGHUP)


def test_the_log_for_journald(agent: Agent, xrays: Xrays) -> None:
    agent.log.touch()
    status = agent.log.stat()
    xrays.put(agent.watch / "Doe^Jane.jpg", old=True)
    (agent.watch / "Doe^John.jpg").write_bytes(b"no image")
    os.utime(agent.watch / "Doe^John.jpg", (1, 1))
    agent.start("--once", environment={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    assert agent.wait() == 0
    lines = ours(agent)[:-1]
    assert lines
    for line in lines:
        assert re.match(r"<[0-7]>thread=\S+ logger=\w+ msg=", line), line
    assert any(line.startswith("<4>") for line in lines)
    assert "Doe" not in agent.log.read_text()


def test_the_log_as_json(agent: Agent, xrays: Xrays) -> None:
    xrays.put(agent.watch / "1.jpg", old=True)
    assert agent.run(*config(agent, '[log]\nformat = "json"\n')) == 0
    lines = [json.loads(line) for line in ours(agent)[:-1]]
    assert all({"time", "level", "thread", "logger", "msg"} <= line.keys() for line in lines)


def audited(agent: Agent) -> list[int]:
    lines = [read_line(raw) for path in files_of(agent.state / "audit") for raw in path.read_bytes().splitlines(True)]
    return [line.seq for line in lines if line is not None and line.kind == "result"]


def test_a_stop_under_load_leaves_nothing_half_done(agent: Agent, xrays: Xrays) -> None:
    for number in range(300):
        xrays.put(agent.watch / f"{number}.jpg", old=True)
    agent.start()
    until(lambda: len(list(agent.watch.glob("*.json"))) > 20)
    start_s = time.monotonic()
    assert agent.terminate() == 0
    assert time.monotonic() - start_s < 5.0  # the promise of the service, not a measure of speed
    assert verify(agent.state).faults == []
    assert verify(agent.state).waiting == 0
    results = [seq for (seq,) in agent.journal("SELECT seq FROM result ORDER BY seq")]
    assert audited(agent) == results
    assert len(list(agent.watch.glob("*.json"))) == len(results)
    assert not list(agent.watch.glob(".cxr-*"))
    assert agent.run() == 0
    assert audited(agent) == list(range(1, 301))


@pytest.mark.slow
def test_whatever_is_killed_each_result_has_one_audit_line(agent: Agent, xrays: Xrays) -> None:
    chance = random.Random(7)
    made = 0
    for _ in range(KILLS):
        for _ in range(20):
            made += 1
            xrays.put(agent.watch / f"{made}.jpg", old=True)
        agent.start()
        time.sleep(chance.uniform(0.3, 1.5))
        agent.kill()
    assert agent.run() == 0
    verdict = verify(agent.state)
    assert verdict.faults == []
    assert (verdict.results, verdict.waiting) == (made, 0)
    assert audited(agent) == [seq for (seq,) in agent.journal("SELECT seq FROM result ORDER BY seq")]


def test_the_status_shows_the_threshold_of_the_model_that_scores(agent: Agent, xrays: Xrays) -> None:
    with open_bundle(agent.bundle) as opened:
        manifest = opened.manifest
        files: dict[str, bytes | Path] = {name: opened.read(name) for name in manifest.files}
    first = manifest.models[0]
    other = replace(
        first, file="models/model.fp16.tflite", precision="fp16", calibration=replace(first.calibration, threshold=0.3)
    )
    agent.bundle = build_bundle(
        agent.state.parent / "two.cxr",
        name="two",
        labels=(manifest.label_negative, manifest.label_positive),
        preprocessing=manifest.preprocessing,
        models=[first, other],
        files={**files, other.file: DATA / "tiny.float.tflite"},
    )
    agent.start("--precision", "fp16")
    xrays.put(agent.watch / "1.jpg", old=True)
    assert until(lambda: agent.json("1.jpg"))["threshold"] == 0.3
    assert until(lambda: ask(agent.state))["threshold"] == 0.3
