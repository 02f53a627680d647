"""Sticks, written by the command."""

from __future__ import annotations

from pathlib import Path

from toolkit.cli.main import run


def write(room: Path, *more: str, key: str = "own") -> Path:
    words = ["deploy", room / "chest.cxr", "--trusted-keys", room / "trusted.toml", "--key", room / f"{key}.key"]
    assert run([*map(str, words), "--to-usb", str(room / "stick"), *more]) == 0
    return room / "stick"
