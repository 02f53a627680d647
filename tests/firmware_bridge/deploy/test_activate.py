"""The switch back: on a disk that is really full, and after a cut at any moment of it. systemd is a script here; with
the real one: tests/devices/test_deploy_rolled_back.py and test_deploy_interrupted.py.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.deploy import activate, orders, secret_files, way_back
from firmware_bridge.deploy.history import history, remember, tidy
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.release import (
    ORDER,
    OUTCOME,
    ROLLED_BACK,
    Description,
    read_json,
    switch,
    write_json,
    write_release,
)
from firmware_bridge.errors import DeployError
from tests.firmware_bridge.deploy.described import DESCRIPTION


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, where this user may mount one; else an ordinary folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid():
        pytest.skip("needs root, to mount a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small disk here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def later(number: int) -> Description:
    return replace(DESCRIPTION, bundle={**DESCRIPTION.bundle, "created": f"2026-01-0{number}T00:00:00Z"})


def device(root: Path) -> tuple[Layout, str, str]:
    """A device that runs one release and has another."""
    layout = Layout(root)
    for hash in ("a", "b", "c"):
        layout.layer(hash * 64).mkdir(parents=True)
    old, new = later(1), later(2)
    for description in (old, new):
        write_release(layout, description)
    switch(layout, layout.current, old.id)
    remember(layout, old)
    return layout, old.id, new.id


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(OSError, match="No space"):
        (disk / "more").write_bytes(b"x" * 4096)


def test_a_full_disk_keeps_nothing_from_going_back(disk: Path, log: Path) -> None:
    layout, old, new = device(disk)
    orders.order(layout, new, watch_s=1, keep=3, reason="test")
    fill(disk)
    activate.activate(layout)
    assert layout.linked_id(layout.current) == old
    assert layout.linked_id(layout.activating) is None
    # The room that was kept for it holds the reason.
    outcome = orders.outcome(layout, new)
    assert (outcome["state"], outcome["previous"]) == (ROLLED_BACK, old)
    assert "restart cxr-edge.service" in log.read_text()


def test_without_any_room_for_words_it_goes_back_all_the_same(disk: Path, log: Path) -> None:
    layout, old, new = device(disk)
    orders.order(layout, new, watch_s=1, keep=3, reason="test")
    (layout.base / ".reserve").unlink()
    fill(disk)
    activate.activate(layout)
    assert layout.linked_id(layout.current) == old
    assert layout.linked_id(layout.activating) is None
    assert list(orders.follow(layout, new, limit_s=1)) == []
    assert log.read_text()


def test_a_cut_after_the_decision_goes_on_going_back(tmp_path: Path, log: Path) -> None:
    layout, old, new = device(tmp_path / "root")
    orders.order(layout, new, watch_s=1, keep=3, reason="test")
    switch(layout, layout.current, new)
    copy = layout.base / "journal-before.sqlite"
    copy.write_bytes(b"the good journal")
    way_back.take(layout, old)
    # The power goes here, and the unit starts with the machine: it must not switch to the new one again.
    layout.agent_state.mkdir(parents=True)
    activate.activate(layout)
    assert layout.linked_id(layout.current) == old
    assert layout.linked_id(layout.activating) is None
    assert "while it was rolling back" in orders.outcome(layout, new)["error"]["came"]
    assert (layout.agent_state / "journal.sqlite").read_bytes() == b"the good journal"
    assert "enable" not in log.read_text().split("start --no-block")[-1]
    assert history(layout) == [old]


def test_the_same_release_is_started_again_where_its_password_goes_back(tmp_path: Path, log: Path) -> None:
    layout, old, _ = device(tmp_path / "root")
    secret_files.stage(layout, {"mqtt-password": "right"})
    secret_files.put_in(layout)
    secret_files.settle(layout, old)
    secret_files.stage(layout, {"mqtt-password": "wrong"})
    orders.order(layout, old, watch_s=1, keep=3, reason="test")
    activate.activate(layout)
    assert (layout.secrets / "mqtt-password").read_text() == "right"
    asked = log.read_text().splitlines()
    # The first start is with the wrong one, which it would keep until the next.
    assert sum("restart cxr-edge.service" in line for line in asked) > 1

    # Killed after the password went back, and before that start: done by the next.
    secret_files.stage(layout, {"mqtt-password": "wrong"})
    orders.order(layout, old, watch_s=1, keep=3, reason="test")
    secret_files.put_in(layout)
    way_back.take(layout, old)
    secret_files.put_back(layout)
    log.write_text("")
    activate.activate(layout)
    assert (layout.secrets / "mqtt-password").read_text() == "right"
    assert "restart cxr-edge.service" in log.read_text()


def test_a_first_release_that_fails_leaves_nothing(tmp_path: Path, log: Path) -> None:
    layout, _, new = device(tmp_path / "root")
    layout.current.unlink()
    orders.order(layout, new, watch_s=1, keep=3, reason="test")
    activate.activate(layout)
    assert not layout.current.is_symlink()
    assert not layout.back.is_symlink()
    assert "disable --now" in log.read_text()
    # The decision alone, and then a cut: likewise.
    orders.order(layout, new, watch_s=1, keep=3, reason="test")
    switch(layout, layout.current, new)
    layout.back.unlink()
    activate.activate(layout)
    assert not layout.current.is_symlink()


def test_an_order_that_rotted_goes_back_all_the_same(tmp_path: Path, log: Path) -> None:
    layout, old, new = device(tmp_path / "root")
    orders.order(layout, new, watch_s=1, keep=3, reason="test")
    (layout.release(new) / ORDER).write_bytes(b"")
    activate.activate(layout)
    assert layout.linked_id(layout.current) == old
    assert orders.outcome(layout, new)["previous"] == old
    assert "restart cxr-edge.service" in log.read_text()


@pytest.mark.parametrize("listened", [True, False])
def test_root_waits_for_fetched_bundles_again_as_it_did_before(tmp_path: Path, log: Path, listened: bool) -> None:
    layout, _, _ = device(tmp_path / "root")
    old, new = (replace(later(day), extra={"update": on}) for day, on in ((3, listened), (4, not listened)))
    for description in (old, new):
        write_release(layout, description)
    switch(layout, layout.current, old.id)
    orders.order(layout, new.id, watch_s=1, keep=3, reason="test")
    activate.activate(layout)
    assert layout.linked_id(layout.current) == old.id
    asked = [line.split()[1] for line in log.read_text().splitlines() if "cxr-edge-update.path" in line]
    assert asked[-1] == ("enable" if listened else "disable")


def test_an_order_of_older_code_is_carried_out_from_the_start(tmp_path: Path, log: Path) -> None:
    layout, old, new = device(tmp_path / "root")
    write_json(layout.release(new) / ORDER, {"previous": old, "watch_s": 1, "keep": 3, "said": []})
    switch(layout, layout.activating, new)
    activate.activate(layout)
    assert read_json(layout.release(new) / ORDER)["said"] == ["switched", "rolling back"]
    assert read_json(layout.release(new) / OUTCOME)["state"] == ROLLED_BACK
    assert layout.linked_id(layout.current) == old
    assert log.read_text()


@pytest.mark.parametrize("watch_s", [3601.0, float("inf"), float("nan"), -1.0])
def test_a_watch_that_the_unit_would_not_live_through_is_refused(tmp_path: Path, watch_s: float) -> None:
    layout, _, new = device(tmp_path / "root")
    with pytest.raises(DeployError, match="watch is too long"):
        orders.order(layout, new, watch_s=watch_s, keep=3, reason="test")
    assert not layout.activating.is_symlink()


def test_what_somebody_left_among_the_releases_is_left_alone(tmp_path: Path) -> None:
    layout, old, _ = device(tmp_path / "root")
    (layout.releases / "notes.txt").write_text("mine")
    (layout.releases / "my folder").mkdir()
    (layout.releases / ("f" * 16)).write_text("a file with the name of a release")
    tidy(layout, keep=1)
    assert sorted(path.name for path in layout.releases.iterdir()) == sorted(["notes.txt", "my folder", "f" * 16, old])


def test_an_old_release_that_rotted_is_no_obstacle(tmp_path: Path) -> None:
    layout, old, new = device(tmp_path / "root")
    switch(layout, layout.current, new)
    remember(layout, later(2))
    (layout.release(old) / "release.json").write_bytes(b"")
    assert history(layout) == [new]
    assert tidy(layout, keep=3) == [old]
    # What runs keeps its layers, also where its own description is gone.
    (layout.release(new) / "release.json").write_bytes(b"{")
    tidy(layout, keep=3)
    assert layout.layer("a" * 64).is_dir()


def test_a_running_release_is_not_written_again(tmp_path: Path) -> None:
    layout, old, _ = device(tmp_path / "root")
    before = {path.name: path.lstat().st_ino for path in layout.release(old).iterdir()}
    write_release(layout, later(1))
    assert {path.name: path.lstat().st_ino for path in layout.release(old).iterdir()} == before
    (layout.release(old) / "agent.toml").chmod(0o600)
    layout.release(old).chmod(0o700)
    write_release(layout, later(1))
    assert (layout.release(old) / "agent.toml").stat().st_mode & 0o777 == 0o644
    assert layout.release(old).stat().st_mode & 0o777 == 0o755
