"""What a device tells of its releases: enough to tell two of one bundle apart, and no secret."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from firmware_bridge.deploy.history import remember
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.manage import status, stock
from firmware_bridge.deploy.release import OUTCOME, ROLLED_BACK, RUNNING, Description, switch, write_json, write_release
from tests.firmware_bridge.deploy.described import DESCRIPTION, layered

URL = "mqtt://ward:hunter2@broker:1883"
OTHER = replace(DESCRIPTION, config=f'[agent]\nthreshold = 0.5\n[mqtt]\nurl = "{URL}"\n')


def run(layout: Layout, description: Description, *, state: str = RUNNING, at_s: int) -> None:
    folder = write_release(layout, description)
    write_json(folder / OUTCOME, {"state": state})
    os.utime(folder / "release.json", (at_s, at_s))
    os.utime(folder / OUTCOME, (at_s + 60, at_s + 60))
    switch(layout, layout.current, description.id)
    remember(layout, description)


def test_each_release_tells_its_times_and_settings(tmp_path: Path, log: Path) -> None:
    layout = layered(tmp_path)
    run(layout, OTHER, state=ROLLED_BACK, at_s=1_790_000_000)
    run(layout, DESCRIPTION, at_s=1_800_000_000)
    other, current = status(layout)["releases"]
    assert (current["put_together"], current["active_since"]) == ("2027-01-15T08:00:00Z", "2027-01-15T08:01:00Z")
    assert other["active_since"] is None
    assert current["settings"] == {"config": "", "unit": "", "trusted_keys": "", "app": "a" * 64, "site": "b" * 64}
    assert "threshold = 0.5" in other["settings"]["config"]
    assert log.read_text()


def test_what_runs_is_part_of_the_stock_without_its_secrets(tmp_path: Path, log: Path) -> None:
    layout = layered(tmp_path)
    assert stock(layout, wanted={}, secrets=[])["running"] is None
    run(layout, OTHER, at_s=1_790_000_000)
    running = stock(layout, wanted={}, secrets=[])["running"]
    assert running["config"] == OTHER.config.replace("ward:hunter2", "…")
    assert "hunter2" not in str(status(layout))
    (layout.release(OTHER.id) / "release.json").write_bytes(b"rotten")
    assert stock(layout, wanted={}, secrets=[])["running"] is None
    assert log.read_text()
