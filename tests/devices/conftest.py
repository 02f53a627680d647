"""Emulated devices: `make_host` starts one, with a clean disk and keys of its own, and takes it away afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emulated import needs
from emulated.agent import DeviceAgent, until
from emulated.host import Host
from emulated.rootfs import DEBIAN_12, DEBIAN_13, Release
from emulated.site import packages
from emulated.workstation import Workstation

from firmware_bridge.deploy.layout import SERVICE

HERE = Path(__file__).parent
SYSTEMD = {DEBIAN_12: 252, DEBIAN_13: 257}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.devices)


@pytest.fixture
def make_host(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Starts a device; see `Host` for what it can be told. Without `wait=False` it answers when this returns."""
    hosts: list[Host] = []

    def start(release: Release = DEBIAN_12, *, wait: bool = True, **options: Any) -> Host:
        reason = needs.missing_for_arm64() if release.foreign else needs.missing()
        if reason:
            pytest.skip(reason)
        options.setdefault("name", f"edge{len(hosts) + 1}")
        if callable(options.get("layers")):  # made only where they can be used
            options["layers"] = options["layers"]()
        hosts.append(Host(release, tmp_path / f"host{len(hosts) + 1}", **options))
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


@pytest.fixture
def make_agent(make_host: Callable[..., Host], bundle_file: Path) -> Callable[..., DeviceAgent]:
    """Starts a device with the agent's service installed, but not started; see `DeviceAgent`."""

    def start(release: Release = DEBIAN_12, **unit: Any) -> DeviceAgent:
        host = make_host(release, layers=lambda: [packages(release)])
        return DeviceAgent(host, bundle_file, systemd=SYSTEMD[release], **unit)

    return start


@pytest.fixture(scope="session")
def xrays(samples: Path) -> list[Path]:
    """JPEGs of the samples."""
    return sorted(samples.glob("chest_xray/**/*.jp*g"))


@pytest.fixture(scope="session")
def xray(xrays: list[Path]) -> Path:
    """One X-ray."""
    return xrays[0]


@pytest.fixture(scope="session")
def the_workstation(tmp_path_factory: pytest.TempPathFactory, xrays: list[Path]) -> Workstation:
    """Keys and bundles are made once."""
    return Workstation(tmp_path_factory.mktemp("workstation"), xrays[1::40])


@pytest.fixture
def workstation(the_workstation: Workstation) -> Iterator[Workstation]:
    """Keys, bundles, and the command; what a test leaves running is ended."""
    yield the_workstation
    the_workstation.end_all()


@pytest.fixture(scope="session")
def old(the_workstation: Workstation) -> Path:
    """The bundle that devices run before a test."""
    return the_workstation.bundle("old", created="2026-02-01T00:00:00Z")


@pytest.fixture(scope="session")
def new(the_workstation: Workstation) -> Path:
    """A newer one."""
    return the_workstation.bundle("new", created="2026-03-01T00:00:00Z")


@pytest.fixture(scope="session")
def deployed_layer(tmp_path_factory: pytest.TempPathFactory, the_workstation: Workstation, old: Path) -> Iterator[Path]:
    """What a first deployment of `old` leaves on a Debian 12 device: made once, the ground of many."""
    if needs.missing():
        pytest.skip(needs.missing())
    layer = memory_folder() / "layer"
    host = Host(DEBIAN_12, tmp_path_factory.mktemp("deployed") / "host", name="first")
    try:
        host.wait()
        the_workstation.deploy(old, hosts=[host]).succeeded()
        host.inside("systemctl", "poweroff", check=False)
        host.wait_off()
        host.keep(layer)
    finally:
        host.close()
    yield layer
    shutil.rmtree(layer.parent)


def memory_folder() -> Path:
    """A folder in memory; those of processes that were killed go away. Hundreds of MB on a disk would have to be
    written before the next device's sync(2) returns, which is every device's."""
    base = Path("/dev/shm")
    for left in base.glob("cxr-edge-devices-*"):
        if not Path(f"/proc/{left.name.rpartition('-')[2]}").exists():
            shutil.rmtree(left)
    folder = base / f"cxr-edge-devices-{os.getpid()}"
    folder.mkdir()
    return folder


@pytest.fixture
def make_deployed(make_host: Callable[..., Host], deployed_layer: Path) -> Callable[..., Host]:
    """Starts a Debian 12 device that runs `old`, deployed."""

    def start(**options: Any) -> Host:
        host = make_host(layers=[deployed_layer], **options)
        until(lambda: host.show(SERVICE, "ActiveState") == "active", what="the service to start with the machine")
        return host

    return start


@pytest.fixture
def deployed(make_deployed: Callable[..., Host]) -> Host:
    """A device that runs `old`."""
    return make_deployed()


@pytest.fixture(scope="session")
def bundle_file(old: Path) -> Path:
    """A bundle for tests without a deployment."""
    return old
