"""Secrets change with the switch and go back with it, cut off wherever."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_bridge.deploy import secret_files
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.errors import DeployError

OLD, NEW = "0" * 16, "1" * 16


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A device whose release OLD runs with a password."""
    layout = Layout(tmp_path)
    layout.secrets.mkdir(parents=True)
    secret_files.stage(layout, {"password": "good", "token": "t"})
    secret_files.put_in(layout)
    secret_files.settle(layout, OLD)
    return layout


def in_use(layout: Layout) -> dict[str, str]:
    assert {path.stat().st_mode & 0o777 for path in layout.secrets.iterdir()} <= {0o600}
    return {path.name: path.read_text() for path in layout.secrets.iterdir()}


GOOD = {"password": "good", "token": "t"}


def test_a_refused_deployment_leaves_the_password_in_use(layout: Layout) -> None:
    assert secret_files.stage(layout, {"password": "wrong"}) == ["secret password"]
    assert in_use(layout) == GOOD
    secret_files.forget(layout)  # the next deployment begins
    secret_files.put_in(layout)
    assert in_use(layout) == GOOD


def test_they_change_with_the_switch_and_go_back_with_it(layout: Layout) -> None:
    secret_files.stage(layout, {"password": "wrong", "another": "a"})
    secret_files.put_in(layout)
    assert in_use(layout) == {**GOOD, "password": "wrong", "another": "a"}
    secret_files.put_back(layout)
    assert in_use(layout) == GOOD
    secret_files.put_back(layout)  # again, after a cut
    assert in_use(layout) == GOOD


def test_a_switch_that_was_cut_while_it_put_them_in_goes_on_or_back(layout: Layout) -> None:
    secret_files.stage(layout, {"password": "new", "token": "u"})
    part = layout.etc / "secrets-before"
    part.mkdir()
    for name in GOOD:
        (part / name).hardlink_to(layout.secrets / name)
    (layout.etc / "secrets-next" / "password").replace(layout.secrets / "password")  # the cut
    secret_files.put_in(layout)
    assert in_use(layout) == {"password": "new", "token": "u"}
    secret_files.put_back(layout)
    assert in_use(layout) == GOOD


def test_a_release_that_is_gone_back_to_gets_its_own(layout: Layout) -> None:
    secret_files.stage(layout, {"password": "new"})
    secret_files.put_in(layout)
    secret_files.settle(layout, NEW)
    assert in_use(layout) == {**GOOD, "password": "new"}
    secret_files.stage_those_of(layout, OLD)
    secret_files.put_in(layout)
    assert in_use(layout) == GOOD
    secret_files.tidy(layout, keep=[NEW])
    secret_files.stage_those_of(layout, OLD)  # nobody knows them any more
    secret_files.put_in(layout)
    assert in_use(layout) == GOOD


def test_the_same_again_changes_nothing(layout: Layout) -> None:
    assert secret_files.stage(layout, GOOD) == []
    before = {path.name: path.stat().st_ino for path in layout.secrets.iterdir()}
    secret_files.put_in(layout)
    secret_files.put_back(layout)
    assert {path.name: path.stat().st_ino for path in layout.secrets.iterdir()} == before


@pytest.mark.parametrize("name", ["../shadow", "a/b", ".hidden"])
def test_a_name_that_leads_elsewhere_is_refused(layout: Layout, name: str) -> None:
    with pytest.raises(DeployError, match="leads elsewhere"):
        secret_files.stage(layout, {name: "x"})
