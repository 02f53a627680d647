"""The commands and settings of docs/results.md, docs/service.md and docs/page.md, run on the state of a real agent."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from firmware_bridge.settings import SECTIONS, load_settings, section_kind
from toolkit.cli.main import run

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Agent, Xrays

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("results.md", "service.md", "page.md", "fhir.md")
STOPPED, TAMPERED = 3, 11


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def commands(page: str) -> list[list[str]]:
    lines = "".join(blocks(page, "sh")).splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("cxr-edge ")]


def test_they_do_what_they_say(
    agent: Agent, xrays: Xrays, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        xrays.put(agent.watch / f"{number}.jpg", old=True)
    assert agent.run() == 0
    monkeypatch.chdir(agent.state.parent)
    ran = 0
    for page in PAGES:
        for words in commands(page):
            if words[:2] == ["agent", "--config"]:
                continue  # runs until it is stopped: the page's own tests start it so
            made_up_head = "--head" in words
            code = run(words)
            assert code == (STOPPED if words[0] == "agent" else TAMPERED if made_up_head else 0), words
            ran += 1
    assert ran == 8
    assert len((agent.state.parent / "results.csv").read_text().splitlines()) == 4
    out = capfd.readouterr().out
    assert "The log is whole." in out
    assert "not running" in out


def test_status_of_a_running_agent(agent: Agent, xrays: Xrays, capfd: pytest.CaptureFixture[str]) -> None:
    from tests.end_to_end.conftest import until

    xrays.put(agent.watch / "1.jpg", old=True)
    agent.start()
    until(lambda: agent.json("1.jpg"))
    until(lambda: (agent.state / "status.sock").exists())
    before = {path: path.stat().st_mtime_ns for path in agent.state.rglob("*") if "journal" not in path.name}
    capfd.readouterr()
    assert run(["agent", "status", "--state", str(agent.state), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["works"] is True
    assert found["queue"]["results"] == 1
    assert found["bundle"]["name"] == "tiny"
    assert found["audit"]["lines"] == 2
    assert [record["id"] for record in found["last_results"]] == [agent.json("1.jpg")["id"]]
    assert {path: path.stat().st_mtime_ns for path in agent.state.rglob("*") if "journal" not in path.name} == before
    # The same by the agent's own options, as one would ask beside a running one.
    assert run(["agent", "--state", str(agent.state), "status"]) == 0
    told = capfd.readouterr().out
    assert "running (process" in told
    assert f"state     {agent.state}\n" in told
    assert "1 unsent: no broker is set\n" in told
    assert agent.terminate() == 0
    assert run(["agent", "status", "--state", str(agent.state)]) == STOPPED


def test_a_state_folder_with_a_long_name(agent: Agent) -> None:
    """unix(7): a socket's address has 108 bytes."""
    from tests.end_to_end.conftest import until

    agent.state = agent.state.parent / ("long" * 40) / "state"
    agent.state.parent.mkdir()
    agent.start()
    until(lambda: (agent.state / "status.sock").exists())
    assert run(["agent", "status", "--state", str(agent.state)]) == 0
    assert agent.terminate() == 0
    shutil.rmtree(agent.state.parent)


@pytest.mark.parametrize("page", [*PAGES, "agent.md", "jetson.md", "mqtt.md", "dicom.md", "suitability.md"])
def test_the_settings_are_ones_that_it_knows(page: str, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(page, "toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(text, encoding="utf-8")
        load_settings(file, environment={})


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_is_in_the_docs(name: str) -> None:
    """In a block of settings (there perhaps as a comment), or in a table or a sentence as code."""
    texts = [page.read_text(encoding="utf-8") for page in DOCS.glob("*.md")]
    texts = [text for text in texts if f"[{name}]" in text]
    missing = [
        key.name
        for key in fields(section_kind(name))
        if not any(
            re.search(rf"^(# )?{key.name} = |`(\[{name}\] )?{key.name}( = [^`]*)?`", text, re.MULTILINE)
            for text in texts
        )
    ]
    assert missing == []
