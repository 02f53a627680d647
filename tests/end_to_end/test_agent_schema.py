"""What an agent really writes, with the model that ships: right under the published schema, wherever it comes out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import pytest

from firmware_bridge.bundle import open_bundle
from firmware_bridge.shipped import shipped_bundle
from tests.end_to_end.conftest import RECORDS
from toolkit.cli.main import run

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Agent


@pytest.fixture
def dropped(agent: Agent, samples: Path) -> list[str]:
    """A whole X-ray, a DICOM file, one upside down, one cut off, and a text."""
    whole = sorted(samples.glob("chest_xray/test/*/*.jp*g"))[0]
    shutil.copy(whole, agent.watch / "whole.jpg")
    shutil.copy(samples / "dicom" / "normal_dx_monochrome2.dcm", agent.watch / "a.dcm")
    cv2.imwrite(str(agent.watch / "turned.png"), cv2.imread(str(whole), cv2.IMREAD_GRAYSCALE)[::-1])
    (agent.watch / "cut.jpg").write_bytes(whole.read_bytes()[:3000])
    (agent.watch / "text.txt").write_text("no X-ray")
    return ["whole.jpg", "a.dcm", "turned.png", "cut.jpg", "text.txt"]


def test_every_record_is_right(agent: Agent, dropped: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    agent.bundle = shipped_bundle()
    config = agent.watch.parent / "agent.toml"
    config.write_text("[explain]\noverlay = true\n\n[agent]\nnames = true\n")
    assert agent.run("--config", str(config), "--grace", "0.5") == 0
    beside = {name: agent.json(name) for name in dropped}
    assert beside["whole.jpg"]["explanation"]["overlay"] is True
    assert beside["turned.png"]["refused"]["reason"] == "upside_down"
    assert all("refused" in beside[name] for name in ("cut.jpg", "text.txt"))
    capsys.readouterr()
    assert run(["results", "export", "--state", str(agent.state), "--format", "jsonl"]) == 0
    exported = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(record["id"] for record in exported) == sorted(record["id"] for record in beside.values())
    for record in exported:
        RECORDS.validate(record)
    with open_bundle(agent.bundle) as bundle:
        assert exported[0]["bundle"]["id"] == bundle.id
