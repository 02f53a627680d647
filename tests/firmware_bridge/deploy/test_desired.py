"""The root half of an update: whatever goes wrong, the agent hears of it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.deploy.desired import update
from firmware_bridge.deploy.keys import note_revoked
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.release import switch, write_release
from firmware_bridge.errors import DeployError
from firmware_bridge.update import READY, REFUSED, REPORT
from tests.firmware_bridge.deploy.described import DESCRIPTION, layered, plain_bundle
from toolkit.keys import make_key


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


def running(tmp_path: Path) -> tuple[Layout, Path]:
    """A device that runs a release, and the agent's folder."""
    layout = layered(tmp_path / "root")
    write_release(layout, DESCRIPTION)
    switch(layout, layout.current, DESCRIPTION.id)
    folder = layout.agent_state / "update"
    folder.mkdir(parents=True)
    return layout, folder


def test_what_is_no_bundle_is_refused_and_nothing_of_it_stays(tmp_path: Path) -> None:
    layout, folder = running(tmp_path)
    before = sorted(layout.base.rglob("*"))
    (folder / READY).write_bytes(b"no bundle" * 1000)
    assert update(layout, say=lambda _line: None)
    assert json.loads((folder / REPORT).read_bytes())["state"] == REFUSED
    assert sorted(layout.base.rglob("*")) == before
    assert not (folder / READY).exists()
    assert layout.lock.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("failed", [True, False])
def test_what_a_revoked_key_signed_is_refused_whatever_the_agents_own_list_says(tmp_path: Path, failed: bool) -> None:
    """Also where the switch that revoked it was rolled back, so that the agent reads a list from before."""
    old, new = (make_key(tmp_path / f"{name}.key", name=name, passphrase=None) for name in ("old", "new"))
    trusting, revoking = (
        replace(DESCRIPTION, trusted_keys=f"{one.to_toml()}\n{new.to_toml()}")
        for one in (old, replace(old, revoked=True))
    )
    layout = layered(tmp_path / "root")
    for description in (trusting, revoking):
        write_release(layout, description)
    note_revoked(layout, revoking)
    switch(layout, layout.current, trusting.id if failed else revoking.id)
    folder = layout.agent_state / "update"
    folder.mkdir(parents=True)
    plain_bundle(folder / READY, key=tmp_path / "old.key")
    update(layout, say=lambda _line: None)
    report = json.loads((folder / REPORT).read_bytes())
    assert report["state"] == REFUSED
    assert f"key old ({old.id}) is revoked" in report["error"]["came"]
    assert "sign it anew" in report["error"]["do"]


def test_a_folder_in_its_place_is_told_as_still_there(tmp_path: Path) -> None:
    layout, folder = running(tmp_path)
    (folder / READY).mkdir()
    assert not update(layout, say=lambda _line: None)
    assert json.loads((folder / REPORT).read_bytes())["state"] == REFUSED


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_pipe_or_a_link_in_its_place_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    layout, folder = running(tmp_path)
    if kind == "pipe":
        os.mkfifo(folder / READY)
    else:
        (folder / READY).symlink_to("/etc/shadow")
    update(layout, say=lambda _line: None)
    assert "a link, a pipe" in json.loads((folder / REPORT).read_bytes())["error"]["came"]
    assert not os.path.lexists(folder / READY)


def test_a_bundle_that_arrives_meanwhile_has_its_turn(tmp_path: Path) -> None:
    layout, folder = running(tmp_path)
    (folder / READY).write_bytes(b"first")

    def arrives(_line: str) -> None:
        (folder / ".next").write_bytes(b"second")
        (folder / ".next").replace(folder / READY)

    update(layout, say=lambda line: arrives(line) if line == "taking the bundle" else None)
    assert (folder / READY).read_bytes() == b"second"


def test_a_link_in_the_folders_place_leads_nowhere(tmp_path: Path) -> None:
    layout, folder = running(tmp_path)
    folder.rmdir()
    others = tmp_path / "others"
    others.mkdir()
    (others / READY).write_bytes(b"theirs")
    folder.symlink_to(others)
    with pytest.raises(DeployError, match="update folder"):
        update(layout, say=lambda _line: None)
    assert [path.name for path in others.iterdir()] == [READY]
