"""Deployments to real systems over real SSH: the first, the second, the changed one, many at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from emulated.host import Host
from emulated.rootfs import DEBIAN_12, DEBIAN_13, Release
from emulated.workstation import Workstation, require_runs

MakeHost = Callable[..., Host]


@pytest.mark.parametrize("release", [DEBIAN_12, DEBIAN_13], ids=lambda release: release.suite)
def test_the_first_deployment_runs_the_second_changes_nothing(
    make_host: MakeHost, workstation: Workstation, old: Path, new: Path, xray: Path, release: Release
) -> None:
    host = make_host(release)
    first = workstation.deploy(old, hosts=[host]).succeeded()
    assert first.states == ["running"]
    require_runs(host, old, xray)
    again = workstation.deploy(old, hosts=[host]).succeeded()
    assert again.states == ["nothing changed"]
    changed = workstation.deploy(new, hosts=[host]).succeeded()
    # Packages and code are there: only the bundle travels.
    assert [step for step in changed.hosts[0]["steps"] if step.startswith("send")] == [
        step for step in changed.hosts[0]["steps"] if step.startswith("send bundle: 1 of 1 files")
    ]
    require_runs(host, new, xray)
