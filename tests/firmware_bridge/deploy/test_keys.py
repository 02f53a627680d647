"""Revoked is revoked: no rollback, no failed deployment and no old stick brings a key back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.deploy.history import remember
from firmware_bridge.deploy.keys import forbid_unrevoking, note_revoked, note_trusted, todays_keys, with_todays_keys
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.manage import choose_rollback
from firmware_bridge.deploy.release import Description, switch, write_release
from firmware_bridge.errors import DeployError, SignatureError
from firmware_bridge.trust import TrustedKey
from tests.firmware_bridge.deploy.described import DESCRIPTION, layered

FIRST, SECOND = TrustedKey("first", b"1" * 32), TrustedKey("second", b"2" * 32, valid_until="2030-01-01T00:00:00Z")
REVOKED = replace(FIRST, revoked=True)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return layered(tmp_path)


def trusting(*keys: TrustedKey) -> Description:
    return replace(DESCRIPTION, trusted_keys="# ours\n" + "\n".join(key.to_toml() for key in keys))


def run(layout: Layout, description: Description, *, fails: bool = False) -> None:
    """What an order and its switch leave behind."""
    write_release(layout, description)
    note_revoked(layout, description)
    if not fails:
        switch(layout, layout.current, description.id)
        remember(layout, description)
        note_trusted(layout, description)


def test_an_older_release_comes_back_with_the_keys_of_today(layout: Layout) -> None:
    both, revoking = trusting(FIRST, SECOND), trusting(REVOKED, SECOND)
    run(layout, both)
    run(layout, revoking)
    back = with_todays_keys(layout, both)
    assert back.trusted_keys == revoking.trusted_keys
    assert (back.layers, back.config) == (both.layers, both.config)
    run(layout, back)
    assert todays_keys(layout) == (REVOKED, SECOND)
    assert with_todays_keys(layout, revoking) == revoking


def test_a_release_that_differed_in_its_keys_alone_is_not_gone_back_to(layout: Layout) -> None:
    earlier = replace(trusting(FIRST), watch="/srv/other")
    run(layout, earlier)
    run(layout, trusting(FIRST, SECOND))
    run(layout, trusting(REVOKED, SECOND))
    assert choose_rollback(layout, None) == earlier.id
    with pytest.raises(DeployError, match="names no release to go back to"):
        choose_rollback(layout, trusting(FIRST, SECOND).id)


def test_a_failed_deployment_revokes_all_the_same(layout: Layout) -> None:
    run(layout, trusting(FIRST, SECOND))
    run(layout, trusting(REVOKED, SECOND), fails=True)
    assert todays_keys(layout) == (REVOKED, SECOND)
    updated = with_todays_keys(layout, trusting(FIRST, SECOND))
    assert "revoked = true" in updated.trusted_keys
    run(layout, updated)
    assert todays_keys(layout) == (REVOKED, SECOND)


def test_a_list_that_trusts_it_again_comes_by_a_deployment_only(layout: Layout) -> None:
    run(layout, trusting(REVOKED, SECOND))
    run(layout, trusting(SECOND))  # its entry was left out since
    with pytest.raises(SignatureError, match="revoked here"):
        forbid_unrevoking(layout, (FIRST, SECOND))
    forbid_unrevoking(layout, (REVOKED, SECOND))
    forbid_unrevoking(layout, (SECOND,))
    run(layout, trusting(FIRST, SECOND), fails=True)
    with pytest.raises(SignatureError, match="revoked here"):
        forbid_unrevoking(layout, (FIRST, SECOND))
    run(layout, trusting(FIRST, SECOND))
    forbid_unrevoking(layout, (FIRST, SECOND))


def test_a_device_that_runs_nothing_has_no_keys(layout: Layout) -> None:
    assert todays_keys(layout) == ()
    assert with_todays_keys(layout, trusting(FIRST)) == trusting(FIRST)
    forbid_unrevoking(layout, (FIRST,))
