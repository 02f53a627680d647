"""`cxr-edge` as the docs' commands call it: itself, on backbones of a few thousand weights, to train in seconds.

An agent that would run until it is stopped is left running, as in another terminal. The next one stops it, or the test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click

from toolkit.backbones.kinds import BACKBONES, EfficientNet
from toolkit.cli.main import main

_READY_S = 120.0
_BLOCKS = ((3, 1, 8, 1, 1), (3, 2, 8, 4, 2))


def shrink() -> None:
    for name, squeeze in (("efficientnet-b0", True), ("efficientnet-lite0", False)):
        activation = "swish" if squeeze else "relu6"
        BACKBONES[name] = EfficientNet(name, activation, squeeze, _BLOCKS, stem_channels=8, feature_channels=16)


def stop_agent(sandbox: Path) -> int | None:
    """Stop the one that was left running, and return its exit code; None where there is none."""
    pid_file, code_file = sandbox / "agent.pid", sandbox / "agent.code"
    if not pid_file.exists():
        return None
    if not code_file.exists():
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
    _until(code_file.exists)
    code = int(code_file.read_text())
    pid_file.unlink()
    code_file.unlink()
    return code


def _start_agent(sandbox: Path, arguments: list[str]) -> None:
    if stop_agent(sandbox) not in (None, 0):
        raise SystemExit("the agent before did not end well")
    log = sandbox / "agent.log"
    note = "echo {} > agent.new; mv agent.new agent.{}"
    script = f'"$@" & {note.format("$!", "pid")}; wait $!; {note.format("$?", "code")}'
    agent = ["bash", "-c", script, "agent", sys.executable, "-m", "toolkit.cli.main", *arguments]
    with log.open("wb") as output:
        subprocess.Popen(agent, cwd=sandbox, stdout=output, stderr=output, start_new_session=True)
    _until(lambda: " watching (" in log.read_text() or (sandbox / "agent.code").exists())
    if (sandbox / "agent.code").exists():
        raise SystemExit(log.read_text())
    click.echo("the agent runs")


def _until(condition: object) -> None:
    deadline_s = time.monotonic() + _READY_S
    assert callable(condition)
    while not condition():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"not within {_READY_S:g} s")
        time.sleep(0.1)


if __name__ == "__main__":
    given = sys.argv[1:]
    if given[:1] == ["agent"] and not {"status", "--once", "--help"} & set(given):
        _start_agent(Path.cwd(), given)
    else:
        shrink()
        main(given)
