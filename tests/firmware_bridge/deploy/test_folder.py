"""The signed folder: what is read of it, what may be left out, and what is found out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge.deploy.folder import CONTENT, KIND, SCHEMA, SIGNATURE, check_files, read_folder
from firmware_bridge.deploy.release import Description
from firmware_bridge.errors import DeployError, SignatureError
from firmware_bridge.signing import FOLDER_CONTEXT, dump_signatures, sign
from firmware_bridge.trust import parse_trusted_keys
from toolkit.keys import make_key, read_key

LAYERS = {kind: hashlib.sha256(kind.encode()).hexdigest() for kind in ("app", "site", "bundle")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as it is written, but for what its layers hold."""
    whole = tmp_path / "folder"
    (whole / "layers").mkdir(parents=True)
    layers = [f"layers/{hash}{end}" for hash in LAYERS.values() for end in (".json", ".tar.gz")]
    names = ["install", "cxr-edge.zip", *layers]
    for name in names:
        (whole / name).write_text(f"content of {name}")
    write_content(whole, files={name: hashlib.sha256((whole / name).read_bytes()).hexdigest() for name in names})
    return whole


def write_content(whole: Path, **over: Any) -> bytes:
    bundle = {"name": "tiny", "id": "00" * 16, "created": "2026-01-01T00:00:00Z"}
    release = Description(LAYERS, bundle, "linux-x86-64", "", "", "", "/srv/cxr-edge").to_json()
    needs = {"machine": "x86_64", "python": "3.11", "glibc": "2.34"}
    content = {"schema": SCHEMA, "kind": KIND, "created": "2026-01-02T00:00:00Z", "needs": needs, "compile": ["app"]}
    raw = json.dumps({**content, "release": release, **over}).encode()
    (whole / CONTENT).write_bytes(raw)
    return raw


def test_a_whole_folder_is_read(folder: Path) -> None:
    opened = read_folder(folder)
    check_files(opened)
    assert dict(opened.description.layers) == LAYERS
    assert len(opened.files) == 8


def put(name: str, raw: bytes | None) -> Callable[[Path], object]:
    return lambda whole: (whole / name).unlink() if raw is None else (whole / name).write_bytes(raw)


@pytest.mark.parametrize("name", ["install", "cxr-edge.zip", f"layers/{LAYERS['app']}.json"])
@pytest.mark.parametrize("raw", [None, b"", b"other"])
def test_a_file_that_is_missing_or_changed_is_named(folder: Path, name: str, raw: bytes | None) -> None:
    put(name, raw)(folder)
    with pytest.raises(DeployError) as caught:
        check_files(read_folder(folder))
    assert name in caught.value.expected


def test_only_a_layer_that_the_device_has_may_be_left_out(folder: Path) -> None:
    for end in (".json", ".tar.gz"):
        (folder / "layers" / f"{LAYERS['site']}{end}").unlink()
    opened = read_folder(folder)
    check_files(opened, there=lambda layer: layer == LAYERS["site"])
    with pytest.raises(DeployError, match="is damaged"):
        check_files(opened, there=lambda layer: layer == LAYERS["app"])
    (folder / "install").unlink()
    with pytest.raises(DeployError, match="is damaged"):
        check_files(opened, there=lambda _layer: True)


def test_a_layer_that_the_device_has_is_still_read_where_it_is_there(folder: Path) -> None:
    put(f"layers/{LAYERS['site']}.tar.gz", b"other")(folder)
    with pytest.raises(DeployError, match="is damaged"):
        check_files(read_folder(folder), there=lambda _layer: True)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "layers/a/b"])
def test_a_name_that_leads_elsewhere_is_refused(folder: Path, name: str) -> None:
    write_content(folder, files={**read_folder(folder).files, name: "00" * 32})
    with pytest.raises(DeployError, match="is damaged"):
        check_files(read_folder(folder))


@pytest.mark.parametrize(
    "over",
    [
        {"schema": 2},
        {"kind": "other"},
        {"files": []},
        {"needs": None},
        {"needs": {"machine": "x86_64"}},
        {"release": {}},
        {"files": {}},
    ],
)
def test_a_list_of_contents_that_is_none_is_refused(folder: Path, over: dict[str, Any]) -> None:
    write_content(folder, **{"files": dict(read_folder(folder).files), **over})
    with pytest.raises(DeployError, match=r"is damaged|cannot be read"):
        read_folder(folder)


def test_only_a_trusted_signature_over_these_very_bytes_counts(folder: Path, tmp_path: Path) -> None:
    own, stranger = (make_key(tmp_path / f"{name}.key", name=name, passphrase=None) for name in ("own", "stranger"))
    trusted = parse_trusted_keys(own.to_toml().encode(), tmp_path / "trusted.toml")
    with pytest.raises(SignatureError, match="not signed"):
        read_folder(folder).require_trust(trusted)
    raw = (folder / CONTENT).read_bytes()

    def signed_by(name: str) -> None:
        key = read_key(tmp_path / f"{name}.key", passphrase=None)
        (folder / SIGNATURE).write_bytes(dump_signatures([sign(raw, key, context=FOLDER_CONTEXT)]))

    signed_by("stranger")
    with pytest.raises(SignatureError):
        read_folder(folder).require_trust(trusted)
    signed_by("own")
    assert read_folder(folder).require_trust(trusted).id == own.id != stranger.id
    (folder / CONTENT).write_bytes(raw + b"\n")
    with pytest.raises(SignatureError):
        read_folder(folder).require_trust(trusted)
