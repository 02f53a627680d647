"""How a switch ended, out of what a device says of it."""

from __future__ import annotations

from typing import Any

import pytest

from firmware_bridge.errors import CxrEdgeError, DeployError, RolledBack
from toolkit.deploy.inventory import Host
from toolkit.deploy.switch import require_running

TOLD = {"what": "it fell", "expected": "it to stay up", "came": "it ended", "do": "look"}


def test_a_release_that_runs_is_well() -> None:
    require_running(Host("pi", "pi"), {"state": "running"})


@pytest.mark.parametrize(
    ("outcome", "kind", "what"),
    [
        ({"state": "rolled back", "error": TOLD, "now": "the old one runs"}, RolledBack, "it fell; the old one runs"),
        ({"state": "rolled back", "error": TOLD}, RolledBack, "it fell; `cxr-edge status` shows"),
        ({"state": "rolled back", "error": None}, DeployError, "nobody knows"),
        ({}, DeployError, "nobody knows"),
    ],
)
def test_any_other_end_is_an_error(outcome: dict[str, Any], kind: type[CxrEdgeError], what: str) -> None:
    with pytest.raises(kind, match=f"pi: {what}"):
        require_running(Host("pi", "pi"), outcome)
