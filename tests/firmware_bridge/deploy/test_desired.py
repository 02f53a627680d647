"""The root half of an update: whatever goes wrong, the agent hears of it."""

from __future__ import annotations

import json
from pathlib import Path

from firmware_bridge.deploy.desired import update
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.update import READY, REFUSED, REPORT


def test_a_disk_that_cannot_be_written_is_reported_too(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    folder = layout.agent_state / "update"
    folder.mkdir(parents=True)
    (folder / READY).write_bytes(b"a bundle")
    layout.lock.parent.parent.mkdir(parents=True, exist_ok=True)
    layout.lock.parent.write_text("in the place of the folder")
    said: list[str] = []
    update(layout, say=said.append)
    report = json.loads((folder / REPORT).read_bytes())
    assert report["state"] == REFUSED
    assert "cannot be written on the device" in report["error"]["what"]
    assert not (folder / READY).exists()
    assert said[-1].startswith(REFUSED)
