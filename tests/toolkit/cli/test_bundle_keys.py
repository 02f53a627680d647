"""`cxr-edge bundle keygen | sign | verify | inspect`: keys, passphrases and what they protect."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import ConfigError, SignatureError
from firmware_bridge.manifest import CalibrationEntry, ModelEntry
from firmware_bridge.trust import read_trusted_keys
from toolkit.bundle import build_bundle
from toolkit.cli.bundle import command
from toolkit.keys import read_key


def call(*arguments: object, environment: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(command, [str(one) for one in arguments], env=environment, catch_exceptions=False)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return build_bundle(
        tmp_path / "plain.cxr",
        name="plain",
        labels=("NORMAL", "PNEUMONIA"),
        preprocessing={"version": 1, "steps": [{"name": "resize", "size_px": 32}]},
        models=[ModelEntry("m.tflite", "int8", "head.npy", CalibrationEntry(1.0, 0.0, 0.5))],
        files={"m.tflite": b"model", "head.npy": b"head"},
        created="2026-06-01T00:00:00Z",
    )


def keygen(folder: Path, *options: str, name: str = "clinic") -> tuple[Path, Path]:
    key, trusted = folder / f"{name}.key", folder / f"{name}.toml"
    done = call("keygen", "--out", key, "--name", name, *options)
    assert done.exit_code == 0, done.output
    trusted.write_text(done.stdout)
    return key, trusted


def test_from_key_to_a_bundle_that_verifies(bundle: Path, tmp_path: Path) -> None:
    key, trusted = keygen(tmp_path, "--no-passphrase")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with pytest.raises(SignatureError, match="not signed"):
        call("verify", bundle, "--trusted-keys", trusted)
    assert call("sign", bundle, "--key", key).stdout.strip() == str(bundle)
    said = call("verify", bundle, "--trusted-keys", trusted).output
    assert f"signed by clinic ({read_trusted_keys(trusted)[0].id})" in said
    assert json.loads(call("inspect", bundle).output)["signed_by"] == [read_trusted_keys(trusted)[0].id]


def test_another_key_does_not_verify(bundle: Path, tmp_path: Path) -> None:
    mine, _ = keygen(tmp_path, "--no-passphrase", name="mine")
    _, others = keygen(tmp_path, "--no-passphrase", name="others")
    out = tmp_path / "signed.cxr"
    call("sign", bundle, "--key", mine, "--out", out)
    with pytest.raises(SignatureError, match="not known here"):
        call("verify", out, "--trusted-keys", others)
    with open_bundle(bundle) as untouched:
        assert untouched.signatures == ()


def test_a_passphrase_from_a_file_or_the_environment_and_never_a_wrong_one(bundle: Path, tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse\n")
    key, _ = keygen(tmp_path, "--passphrase-file", str(secret))
    assert b"ENCRYPTED" in key.read_bytes()
    call("sign", bundle, "--key", key, "--passphrase-file", secret)
    call("sign", bundle, "--key", key, environment={"CXR_EDGE_KEY_PASSPHRASE": "correct horse"})
    with pytest.raises(ConfigError, match="wrong passphrase"):
        call("sign", bundle, "--key", key, environment={"CXR_EDGE_KEY_PASSPHRASE": "battery staple"})
    with pytest.raises(ConfigError, match="Passphrase of"):
        call("sign", bundle, "--key", key)


def test_a_key_is_never_overwritten_and_never_read_by_others(tmp_path: Path) -> None:
    key, _ = keygen(tmp_path, "--no-passphrase")
    before = key.read_bytes()
    with pytest.raises(ConfigError, match="there already"):
        call("keygen", "--out", key, "--name", "again", "--no-passphrase")
    assert key.read_bytes() == before
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_key(key)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_that_is_no_key(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "no.key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="Ed25519 key in PEM"):
        read_key(file)


def test_signing_says_which_key_and_whose_signatures_are_there(bundle: Path, tmp_path: Path) -> None:
    (one, trusted), (other, _) = keygen(tmp_path, "--no-passphrase"), keygen(tmp_path, "--no-passphrase", name="b")
    (first,) = read_trusted_keys(trusted)
    assert f"signed by {first.id}, and by nobody else" in call("sign", bundle, "--key", one).output
    assert f"and by {first.id}" in call("sign", bundle, "--key", other).output


def test_an_ssh_key_signs_no_bundle(bundle: Path, tmp_path: Path) -> None:
    key = tmp_path / "id_ed25519"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
    key.chmod(0o600)
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        call("sign", bundle, "--key", key)
    assert "keygen" in caught.value.do
