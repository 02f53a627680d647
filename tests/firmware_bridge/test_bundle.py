"""Bundles: what is built opens again; what is damaged, newer or built to harm does not."""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import BundleError
from firmware_bridge.manifest import CalibrationEntry, GoldenEntry, ModelEntry
from firmware_bridge.manifest_parse import parse_manifest
from toolkit.bundle import build_bundle

FILES: dict[str, bytes | Path] = {
    "models/model.int8.tflite": b"int8" * 1000,
    "models/head.int8.npy": b"head",
    "golden/0.png": b"png",
}
MODELS = [
    ModelEntry(
        "models/model.int8.tflite",
        "int8",
        "models/head.int8.npy",
        CalibrationEntry(1.5, 0.0, 0.42, wished_sensitivity=0.95, threshold_interval=(0.3, 0.5)),
        {"auroc": 0.98},
    )
]
GOLDEN = [GoldenEntry("golden/0.png", "models/model.int8.tflite", 0.9, 0.02)]
PARTS: dict[str, Any] = {
    "name": "test",
    "labels": ("NORMAL", "PNEUMONIA"),
    "preprocessing": {"version": 1, "steps": [{"name": "resize", "size_px": 224}]},
    "models": MODELS,
    "golden": GOLDEN,
    "files": FILES,
    "created": "2026-01-01T00:00:00Z",
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return build_bundle(tmp_path / "test.cxr", **PARTS)


def rezip(bundle: Path, change: Callable[[dict[str, bytes]], None], *, compression: int = zipfile.ZIP_STORED) -> Path:
    """The bundle again, with its members changed."""
    with zipfile.ZipFile(bundle) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(bundle, "w", compression) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return bundle


def change_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    def apply(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        change(manifest)
        members["manifest.json"] = json.dumps(manifest).encode()

    return rezip(bundle, apply)


def test_what_is_built_opens_again(bundle: Path) -> None:
    with open_bundle(bundle) as opened:
        assert opened.manifest.models == tuple(MODELS)
        assert opened.manifest.golden == tuple(GOLDEN)
        assert opened.manifest.label_positive == "PNEUMONIA"
        assert opened.read("models/head.int8.npy") == b"head"
        with zipfile.ZipFile(bundle) as archive:
            assert opened.id == hashlib.sha256(archive.read("manifest.json")).hexdigest()
            assert archive.namelist()[0] == "manifest.json"


def test_the_same_parts_give_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    again = build_bundle(tmp_path / "again.cxr", **{**PARTS, "files": dict(reversed(FILES.items()))})
    assert again.read_bytes() == bundle.read_bytes()


def test_a_failed_build_leaves_what_was_there(bundle: Path, tmp_path: Path) -> None:
    before = bundle.read_bytes()
    with pytest.raises(BundleError, match="listed in `files`"):
        build_bundle(bundle, **{**PARTS, "files": {"models/head.int8.npy": b"head"}})
    assert bundle.read_bytes() == before
    assert list(tmp_path.iterdir()) == [bundle]


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a//b", ".hidden", "a/../b", "a\\b", "", "a\nb", "x" * 300])
def test_a_builder_refuses_names_that_leave_the_bundle(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="cannot be a file in a bundle"):
        build_bundle(tmp_path / "test.cxr", **{**PARTS, "files": {**FILES, name: b""}})


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="NaN"):
        build_bundle(tmp_path / "test.cxr", **{**PARTS, "metrics": {"auroc": float("nan")}})


def test_every_flipped_byte_is_found_or_harmless(bundle: Path) -> None:
    with open_bundle(bundle) as opened:
        id = opened.id
    good = bundle.read_bytes()
    for position in range(0, len(good), 37):
        bad = bytearray(good)
        bad[position] ^= 0x41
        bundle.write_bytes(bytes(bad))
        try:
            with open_bundle(bundle) as opened:
                # Zip fields that mean nothing to us (times, attributes) may differ; the content may not.
                assert opened.id == id
        except BundleError:
            continue


@pytest.mark.parametrize("size", [0, 1, 100, 2000, 4000])
def test_a_truncated_bundle_is_refused(bundle: Path, size: int) -> None:
    bundle.write_bytes(bundle.read_bytes()[:size])
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(bundle)


def test_no_bundle_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file"):
        open_bundle(tmp_path / "none.cxr")
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(tmp_path)


def test_a_newer_schema_says_update(bundle: Path) -> None:
    change_manifest(bundle, lambda manifest: manifest.update(schema=2))
    with pytest.raises(BundleError, match="newer than this cxr-edge") as caught:
        open_bundle(bundle)
    assert caught.value.exit_code == 6
    assert "update cxr-edge" in caught.value.do


@pytest.mark.parametrize("evil", ["../evil", "/evil", "a/../../evil", "C:/evil", ".evil"])
def test_traversal_is_refused(bundle: Path, evil: str) -> None:
    rezip(bundle, lambda members: members.update({evil: b"x"}))
    with pytest.raises(BundleError, match="plain relative names"):
        open_bundle(bundle)


def test_a_file_that_the_manifest_does_not_list_is_refused(bundle: Path) -> None:
    rezip(bundle, lambda members: members.update({"more.txt": b"x"}))
    with pytest.raises(BundleError, match="without being listed"):
        open_bundle(bundle)


def test_a_missing_file_is_refused(bundle: Path) -> None:
    rezip(bundle, lambda members: members.__delitem__("golden/0.png"))
    with pytest.raises(BundleError, match="listed without being there"):
        open_bundle(bundle)


def test_a_signature_that_is_none_is_refused_though_nobody_asks_for_one(bundle: Path) -> None:
    rezip(bundle, lambda members: members.update({"manifest.sig": b"signature"}))
    with pytest.raises(BundleError, match="signature cannot be read"):
        open_bundle(bundle)


def test_a_decompression_bomb_is_refused(bundle: Path) -> None:
    rezip(bundle, lambda members: members.update({"bomb": bytes(50_000_000)}), compression=zipfile.ZIP_DEFLATED)
    assert bundle.stat().st_size < 1_000_000
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(bundle)


def test_links_are_refused(bundle: Path) -> None:
    with zipfile.ZipFile(bundle, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BundleError, match="a link"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(surprise=1), "only the fields of schema 1"),
        (lambda m: m.pop("labels"), "labels"),
        (lambda m: m.update(models=[]), "at least one model"),
        (lambda m: m.update(models="int8"), "models"),
        (lambda m: m["models"][0].update(precision="int4"), "precision"),
        (lambda m: m["models"][0]["calibration"].update(threshold=1.5), "threshold"),
        (lambda m: m["models"][0]["calibration"].update(temperature=0), "temperature"),
        (lambda m: m["models"][0]["calibration"].update(threshold=True), "threshold"),
        (lambda m: m["models"][0].update(file="../x"), "plain relative name"),
        (lambda m: m["models"][0].update(file="models/other.tflite"), "listed in `files`"),
        (lambda m: m["golden"][0].update(model="golden/0.png"), "model out of"),
        (lambda m: m.update(kind="other"), "kind"),
        (lambda m: m.update(name="two\nlines"), "printable"),
        (lambda m: m["files"]["golden/0.png"].update(sha256="0"), "64 hex digits"),
        (lambda m: m["files"]["golden/0.png"].update(sha256="0" * 64), "SHA-256"),
    ],
)
def test_a_wrong_manifest_is_refused(bundle: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    change_manifest(bundle, change)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"nonsense", b"\xff\xfe", b"[" * 100_000, b'{"schema": NaN}', b'{"schema": "1"}']
)
def test_a_manifest_that_is_no_manifest(raw: bytes) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        parse_manifest(raw)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"temperature": 1.5', '"temperature": ' + "9" * 400),
        ('"temperature": 1.5', '"temperature": 1e999'),
        ('"wished_sensitivity": 0.95', '"wished_sensitivity": 1' + "0" * 400),
        ('"auroc": 0.98', '"auroc": 1e999'),
        ('"auroc": 0.98', '"auroc": "\\ud800"'),
        ('"bias": 0.0', '"bias": 0.0, "bias": 5.0'),
    ],
)
def test_numbers_beyond_numbers_half_letters_and_keys_given_twice_are_refused(bundle: Path, old: str, new: str) -> None:
    with zipfile.ZipFile(bundle) as archive:
        text = archive.read("manifest.json").decode()
    assert text.count(old) == 1
    parse_manifest(text.encode())
    with pytest.raises(BundleError):
        parse_manifest(text.replace(old, new).encode())
