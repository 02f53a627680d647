"""A file of which the agent's process dies is not tried for ever, and no other file is blamed for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Agent, Xrays

# The agent itself, with a decoder that kills the process on some bytes, as a bug in native code would.
DEADLY = """
import os, signal
from firmware_bridge import pipeline
whole = pipeline.decode
def decode(data, **options):
    if b"deadly" in data:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(data, **options)
pipeline.decode = decode
from toolkit.cli.main import main
main()
"""


@pytest.fixture
def deadly_agent(agent: Agent, tmp_path: Path) -> Agent:
    script = tmp_path / "deadly.py"
    script.write_text(DEADLY)
    agent.program = [str(script)]
    return agent


def test_a_file_that_kills_the_process_is_given_up_and_all_others_are_scored(deadly_agent: Agent, xrays: Xrays) -> None:
    agent = deadly_agent
    good = {f"{n}.jpg": xrays.put(agent.watch / f"{n}.jpg", old=True) for n in range(12)}
    (agent.watch / "5-deadly.jpg").write_bytes(b"\xff\xd8\xff deadly")
    # The first death could be anybody's fault; seven more, alone, are its own.
    assert [agent.run("--settle", "0") for _ in range(9)] == [-9] * 8 + [0]
    for name, id in good.items():
        record = agent.json(name)
        assert (record["id"], "refused" in record) == (id, False)
    refused = agent.json("5-deadly.jpg")["refused"]
    assert "8 times" in refused["came"]
    assert refused["do"]
    records = [json.loads(text) for (text,) in agent.journal("SELECT record FROM result")]
    assert len({record["id"] for record in records}) == len(records) == 13
    # The same picture under another name is not tried again.
    (agent.watch / "other name.jpg").write_bytes(b"\xff\xd8\xff deadly")
    assert agent.run("--settle", "0") == 0
    assert agent.json("other name.jpg") == agent.json("5-deadly.jpg")
