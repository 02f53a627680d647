"""Signatures: what is signed by a trusted key opens; what is unsigned, changed, or signed by others does not."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import BundleError, ConfigError, SignatureError
from firmware_bridge.manifest import CalibrationEntry, ModelEntry
from firmware_bridge.signing import BUNDLE_CONTEXT, FOLDER_CONTEXT, require_signature, sign
from firmware_bridge.trust import TrustedKey, read_trusted_keys
from toolkit.bundle import build_bundle, sign_bundle

PARTS: dict[str, Any] = {
    "name": "test",
    "labels": ("NORMAL", "PNEUMONIA"),
    "preprocessing": {"version": 1, "steps": [{"name": "resize", "size_px": 224}]},
    "models": [ModelEntry("m.tflite", "int8", "head.npy", CalibrationEntry(1.5, 0.0, 0.42))],
    "files": {"m.tflite": b"int8" * 100, "head.npy": b"head"},
    "created": "2026-06-01T00:00:00Z",
}


def make_key(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


def trusted(seed: int, **limits: Any) -> TrustedKey:
    return TrustedKey(f"key {seed}", make_key(seed).public_key().public_bytes_raw(), **limits)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return sign_bundle(build_bundle(tmp_path / "test.cxr", **PARTS), make_key(1))


def test_a_signed_bundle_opens_for_who_trusts_the_key(bundle: Path) -> None:
    with open_bundle(bundle, trusted=[trusted(2), trusted(1)]) as opened:
        assert opened.require_trust([trusted(1)]).name == "key 1"


def test_the_same_bundle_and_key_give_the_same_bytes_and_the_id_stays(tmp_path: Path, bundle: Path) -> None:
    plain = build_bundle(tmp_path / "plain.cxr", **PARTS)
    again = sign_bundle(plain, make_key(1), out=tmp_path / "again.cxr")
    assert again.read_bytes() == bundle.read_bytes()
    with open_bundle(plain) as unsigned, open_bundle(bundle) as signed:
        assert unsigned.id == signed.id
        assert unsigned.signatures == ()


def test_an_unsigned_bundle_is_refused_where_keys_are_given(tmp_path: Path) -> None:
    plain = build_bundle(tmp_path / "plain.cxr", **PARTS)
    with pytest.raises(SignatureError, match="not signed") as caught:
        open_bundle(plain, trusted=[trusted(1)])
    assert caught.value.exit_code == 6
    assert "bundle sign" in caught.value.do


@pytest.mark.parametrize(
    ("key", "reason", "cure"),
    [
        (trusted(2), "is not known here", "add the key's public half"),
        (trusted(1, revoked=True), "is revoked", "sign it anew with a key that is trusted"),
        (trusted(1, valid_from="2026-06-01T00:00:01Z"), "valid from", "dates"),
        (trusted(1, valid_until="2026-05-31T23:59:59Z"), "valid until", "dates"),
    ],
)
def test_keys_that_do_not_count(bundle: Path, key: TrustedKey, reason: str, cure: str) -> None:
    sign_bundle(bundle, make_key(3))  # a stranger's beside it is not what is told
    with pytest.raises(SignatureError, match=reason) as caught:
        open_bundle(bundle, trusted=[key])
    assert cure in caught.value.do
    assert "bundle sign" in caught.value.do


def test_a_key_counts_within_its_time(bundle: Path) -> None:
    key = trusted(1, valid_from="2026-06-01T00:00:00Z", valid_until="2026-06-01T00:00:00Z")
    open_bundle(bundle, trusted=[key]).close()


def test_keys_are_exchanged_while_both_count(bundle: Path) -> None:
    sign_bundle(bundle, make_key(2))
    for keys in ([trusted(1)], [trusted(2)], [trusted(1, revoked=True), trusted(2)]):
        open_bundle(bundle, trusted=keys).close()
    with open_bundle(bundle) as opened:
        assert len(opened.signatures) == 2
    sign_bundle(bundle, make_key(2))
    with open_bundle(bundle) as opened:
        assert len(opened.signatures) == 2


def members(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rezip(bundle: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_STORED) as archive:
        for name, raw in content.items():
            archive.writestr(name, raw)
    return bundle


def test_a_signature_over_another_manifest_is_refused(bundle: Path, tmp_path: Path) -> None:
    other = members(build_bundle(tmp_path / "other.cxr", **{**PARTS, "created": "2026-06-02T00:00:00Z"}))
    other["manifest.sig"] = members(bundle)["manifest.sig"]
    with pytest.raises(SignatureError, match="was changed since"):
        open_bundle(rezip(bundle, other), trusted=[trusted(1)])


def test_every_flipped_byte_is_refused_or_harmless(bundle: Path) -> None:
    keys = [trusted(1)]
    with open_bundle(bundle, trusted=keys) as opened:
        good_id, good = opened.id, bundle.read_bytes()
    for position in range(0, len(good), 11):
        bad = bytearray(good)
        bad[position] ^= 0x01
        bundle.write_bytes(bytes(bad))
        try:
            with open_bundle(bundle, trusted=keys) as opened:
                assert opened.id == good_id
        except BundleError:
            continue


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda _: b"\xff",
        lambda _: b"[]",
        lambda _: b"[" * 10_000,
        lambda sig: json.dumps({**json.loads(sig), "schema": 2}).encode(),
        lambda sig: json.dumps({**json.loads(sig), "signatures": []}).encode(),
        lambda sig: json.dumps({**json.loads(sig), "signatures": json.loads(sig)["signatures"] * 17}).encode(),
        lambda sig: json.dumps({**json.loads(sig), "signatures": [{"key": "x", "ed25519": "%%"}]}).encode(),
        lambda sig: json.dumps({**json.loads(sig), "signatures": [{"key": 1, "ed25519": "AA=="}]}).encode(),
        lambda sig: sig + b" " * 20_000,
    ],
)
def test_a_signature_file_that_is_none_is_refused(bundle: Path, change: Any) -> None:
    content = members(bundle)
    content["manifest.sig"] = change(content["manifest.sig"])
    with pytest.raises(BundleError):
        open_bundle(rezip(bundle, content))


def test_a_signature_for_one_thing_is_none_for_another() -> None:
    signature = sign(b"content", make_key(1), context=FOLDER_CONTEXT)
    moment = "2026-06-01T00:00:00Z"
    require_signature(b"content", [signature], [trusted(1)], context=FOLDER_CONTEXT, created=moment)
    with pytest.raises(SignatureError, match="was changed since"):
        require_signature(b"content", [signature], [trusted(1)], context=BUNDLE_CONTEXT, created=moment)


def test_trusted_keys_are_read_as_they_are_written(tmp_path: Path) -> None:
    keys = (
        trusted(1, valid_from="2026-01-01T00:00:00Z"),
        trusted(2, revoked=True),
        replace(trusted(3), name='ward "7" 🔑'),
    )
    file = tmp_path / "trusted-keys.toml"
    file.write_text("\n".join(key.to_toml() for key in keys))
    assert read_trusted_keys(file) == keys


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"one or more \[\[key\]\]"),
        ("key = 3", r"one or more \[\[key\]\]"),
        ("nonsense", "TOML"),
        ('[[key]]\nname = "a"', "with name and public"),
        ('[[key]]\nname = "a"\npublic = "AAAA"', "32 public bytes"),
        ('[[key]]\nname = "a"\npublic = "ä"', "32 public bytes"),
        (trusted(1).to_toml() * 2, "each key once"),
        (trusted(1).to_toml() + "revoked = 1", "true or false"),
        (trusted(1).to_toml() + 'revokd = "x"', "at most"),
        (trusted(1).to_toml() + 'valid_until = "soon"', "in UTC"),
        ("#" * 70_000, "at most 65536 bytes"),
        ("key = " + "[" * 60_000, "TOML"),
    ],
)
def test_trusted_keys_that_are_wrong_say_what(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "trusted-keys.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_trusted_keys(file)


def test_no_trusted_keys_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_trusted_keys(tmp_path / "none.toml")
