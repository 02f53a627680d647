"""A release as a device has it, made up: three layers and nothing in them; and a signed bundle that cannot score."""

from __future__ import annotations

from pathlib import Path

from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.release import Description
from firmware_bridge.manifest import CalibrationEntry, GoldenEntry, ModelEntry
from toolkit.bundle import build_bundle, sign_bundle
from toolkit.keys import read_key

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


def plain_bundle(path: Path, *, key: Path, name: str = "chest") -> Path:
    """A bundle whose model is none, signed by the key in that file."""
    build_bundle(
        path,
        name=name,
        labels=("NORMAL", "PNEUMONIA"),
        preprocessing={"version": 1, "steps": [{"name": "resize", "size_px": 32}]},
        models=[ModelEntry("m.tflite", "int8", "head.npy", CalibrationEntry(1.0, 0.0, 0.5))],
        files={"m.tflite": b"model", "head.npy": b"head", "golden/1.jpg": b"xray"},
        golden=[GoldenEntry("golden/1.jpg", "m.tflite", 0.5, 0.02)],
    )
    return sign_bundle(path, read_key(key, passphrase=None))
