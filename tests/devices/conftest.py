"""Emulated devices: `make_host` starts one, with a clean disk and keys of its own, and takes it away afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emulated import needs
from emulated.agent import DeviceAgent
from emulated.host import Host
from emulated.rootfs import DEBIAN_12, DEBIAN_13, Release
from emulated.site import packages

from firmware_bridge.manifest import CalibrationEntry, GoldenEntry, ModelEntry
from toolkit.bundle import build_bundle

HERE = Path(__file__).parent
SYSTEMD = {DEBIAN_12: 252, DEBIAN_13: 257}
MODEL, HEAD = "models/model.int8.tflite", "models/head.int8.npy"
DATA = HERE.parent / "data"


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
        reason = needs.missing()
        if reason:
            pytest.skip(reason)
        host = make_host(release, layers=[packages(release)])
        return DeviceAgent(host, bundle_file, systemd=SYSTEMD[release], **unit)

    return start


@pytest.fixture(scope="session")
def bundle_file(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """A bundle with the tiny model and two golden X-rays: what it says means nothing, but it says it fast."""
    from firmware_bridge.bundle import open_bundle

    entry = ModelEntry(MODEL, "int8", HEAD, CalibrationEntry(1.0, 0.0, 0.45))
    images = {f"golden/{n}.jpg": path for n, path in enumerate(sorted(samples.glob("chest_xray/**/*.jp*g"))[::40])}
    common = {
        "name": "tiny",
        "labels": ("NORMAL", "PNEUMONIA"),
        "preprocessing": {"version": 1, "steps": [{"name": "resize", "size_px": 32}]},
        "models": [entry],
        "files": {entry.file: DATA / "tiny.int8.tflite", entry.head: DATA / "tiny.head.npy", **images},
        "created": "2026-01-01T00:00:00Z",
    }
    folder = tmp_path_factory.mktemp("bundle")
    with open_bundle(build_bundle(folder / "draft.cxr", **common)) as draft:
        scorer = draft.scorer(threads=1)
        golden = [
            GoldenEntry(name, entry.file, scorer.score(path.read_bytes()).probability, 0.02)
            for name, path in images.items()
        ]
    return build_bundle(folder / "tiny.cxr", golden=golden, **common)
