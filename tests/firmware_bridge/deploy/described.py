"""A release as a device has it, made up: three layers and nothing in them."""

from __future__ import annotations

from pathlib import Path

from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.release import Description

DESCRIPTION = Description(
    layers={"app": "a" * 64, "site": "b" * 64, "bundle": "c" * 64},
    bundle={"name": "chest", "id": "d" * 64, "created": "2026-01-01T00:00:00Z"},
    target="rpi-os-12",
    config="",
    unit="",
    trusted_keys="",
    watch="/srv/cxr-edge",
)


def layered(root: Path, layers: str = "abc") -> Layout:
    """A device below `root` that has a folder for each of these layers, named by one letter 64 times."""
    layout = Layout(root)
    for hash in layers:
        layout.layer(hash * 64).mkdir(parents=True)
    return layout
