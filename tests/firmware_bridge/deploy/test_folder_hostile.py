"""A stick that somebody else had: no pipe, no link and no size keeps root busy or tells of its files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge.deploy.folder import CONTENT, KIND, SCHEMA, check_files, read_folder
from firmware_bridge.errors import DeployError

LAYERS = {"app": "a" * 64, "site": "b" * 64, "bundle": "c" * 64}
RELEASE = {
    "schema": 1,
    "layers": LAYERS,
    "bundle": {"name": "chest", "id": "d" * 64, "created": "2026-01-01T00:00:00Z"},
    "target": "linux-x86-64",
    "config": "",
    "unit": "",
    "trusted_keys": "",
    "watch": "/srv/cxr-edge",
    "broker": "",
    "threads": [1],
    "extra": {},
}


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    folder = tmp_path / "stick"
    (folder / "layers").mkdir(parents=True)
    names = [f"layers/{hash}{end}" for hash in LAYERS.values() for end in (".json", ".tar.gz")]
    for name in names:
        (folder / name).write_bytes(name.encode())
    content = {
        "schema": SCHEMA,
        "kind": KIND,
        "release": RELEASE,
        "needs": {"machine": "x86_64", "python": "3.11", "glibc": "2.34"},
        "compile": [],
        "created": "2026-01-01T00:00:00Z",
        "files": {name: hashlib.sha256(name.encode()).hexdigest() for name in names},
    }
    (folder / CONTENT).write_text(json.dumps(content))
    return folder


LAYER = f"layers/{'a' * 64}.tar.gz"


def rewrite(stick: Path, **changed: Any) -> None:
    content = json.loads((stick / CONTENT).read_bytes())
    (stick / CONTENT).write_text(json.dumps({**content, **changed}))


def test_a_whole_stick_is_read(stick: Path) -> None:
    folder = read_folder(stick)
    check_files(folder)
    assert folder.description.bundle["name"] == "chest"


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: os.mkfifo(file),
        lambda file: file.symlink_to("/dev/zero"),
        lambda file: file.write_bytes(b"[" * 200_000),
        lambda file: os.truncate(os.open(file, os.O_CREAT | os.O_WRONLY), 300_000_000_000),
        lambda file: file.mkdir(),
    ],
    ids=["pipe", "link", "deep", "huge", "folder"],
)
def test_a_content_that_is_none_is_refused_at_once(stick: Path, damage: Callable[[Path], object]) -> None:
    (stick / CONTENT).unlink()
    damage(stick / CONTENT)
    with pytest.raises(DeployError, match="is damaged"):
        read_folder(stick)


@pytest.mark.parametrize("target", ["/dev/zero", "/etc/passwd"])
def test_a_layer_that_is_a_link_is_not_read(stick: Path, target: str) -> None:
    (stick / LAYER).unlink()
    (stick / LAYER).symlink_to(target)
    with pytest.raises(DeployError, match="is damaged") as caught:
        check_files(read_folder(stick))
    assert hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest() not in str(caught.value)


def test_a_folder_of_layers_that_is_a_link_is_not_entered(stick: Path) -> None:
    (stick / "layers").rename(stick / "elsewhere")
    (stick / "layers").symlink_to(stick / "elsewhere")
    with pytest.raises(DeployError, match="is damaged"):
        check_files(read_folder(stick))


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/b/c", "layers/..", "./a"])
def test_names_that_lead_elsewhere_are_refused(stick: Path, name: str) -> None:
    files = json.loads((stick / CONTENT).read_bytes())["files"]
    rewrite(stick, files={**files, name: "0" * 64})
    with pytest.raises(DeployError, match="is damaged"):
        check_files(read_folder(stick))


def test_escape_sequences_do_not_reach_the_terminal(stick: Path) -> None:
    files = json.loads((stick / CONTENT).read_bytes())["files"]
    rewrite(stick, files={**files, "\x1b]0;PWNED\x07": "0" * 64})
    with pytest.raises(DeployError, match="is damaged") as caught:
        check_files(read_folder(stick))
    assert "\x1b" not in str(caught.value)
