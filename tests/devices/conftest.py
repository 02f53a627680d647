"""Emulated devices: `make_host` starts one, with a clean disk and keys of its own, and takes it away afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from emulated import needs
from emulated.host import Host
from emulated.rootfs import DEBIAN_12, Release

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.devices)


@pytest.fixture
def make_host(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Starts a device; see `Host` for what it can be told. Without `wait=False` it answers when this returns."""
    hosts: list[Host] = []

    def start(release: Release = DEBIAN_12, *, wait: bool = True, **options: str) -> Host:
        reason = needs.missing_for_arm64() if release.foreign else needs.missing()
        if reason:
            pytest.skip(reason)
        name = options.pop("name", f"edge{len(hosts) + 1}")
        hosts.append(Host(release, tmp_path / f"host{len(hosts) + 1}", name=name, **options))
        if wait:
            hosts[-1].wait()
        return hosts[-1]

    yield start
    for host in hosts:
        host.close()


@pytest.fixture
def host(make_host: Callable[..., Host]) -> Host:
    """A Debian 12 device that answers."""
    return make_host()
