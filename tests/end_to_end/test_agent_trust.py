"""The agent starts only with a bundle that somebody it trusts has signed, and so does the proof of a deployment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firmware_bridge.bundle import open_bundle
from firmware_bridge.deploy import proof
from firmware_bridge.errors import BundleError, SignatureError
from firmware_bridge.manifest import GoldenEntry
from firmware_bridge.trust import TrustedKey
from toolkit.bundle import build_bundle, sign_bundle

from .conftest import Agent, Xrays

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)


def trust(path: Path, *keys: Ed25519PrivateKey, **limits: bool) -> Path:
    public = [key.public_key().public_bytes_raw() for key in keys]
    path.write_text("".join(TrustedKey(f"key {n}", raw, **limits).to_toml() for n, raw in enumerate(public)))
    return path


def with_golden(bundle: Path, samples: Path, out: Path, *, shift: float = 0.0) -> Path:
    """The tiny bundle with two golden X-rays, signed."""
    with open_bundle(bundle) as opened:
        manifest, scorer = opened.manifest, opened.scorer()
        files: dict[str, bytes | Path] = {name: opened.read(name) for name in manifest.files}
    golden = []
    for number, path in enumerate(sorted(samples.glob("chest_xray/**/*.jp*g"))[:2]):
        files[f"golden/{number}.jpg"] = path
        expected = scorer.score(path).probability + shift
        golden.append(GoldenEntry(f"golden/{number}.jpg", manifest.models[0].file, expected, 0.01))
    built = build_bundle(
        out,
        name="golden",
        labels=(manifest.label_negative, manifest.label_positive),
        preprocessing=manifest.preprocessing,
        models=manifest.models,
        golden=golden,
        files=files,
        created="2026-01-01T00:00:00Z",
    )
    return sign_bundle(built, KEY)


def test_a_signed_bundle_scores_where_its_key_is_trusted(
    agent: Agent, xrays: Xrays, bundle_file: Path, tmp_path: Path
) -> None:
    agent.bundle = sign_bundle(bundle_file, KEY, out=tmp_path / "signed.cxr")
    xrays.put(agent.watch / "a.jpg")
    assert agent.run("--trusted-keys", str(trust(tmp_path / "keys.toml", OTHER, KEY))) == 0
    assert agent.json("a.jpg")["decision"] in ("positive", "negative")


@pytest.mark.parametrize("case", ["unsigned", "another's", "revoked"])
def test_the_agent_does_not_start_with_a_bundle_that_nobody_trusted_signed(
    agent: Agent, xrays: Xrays, bundle_file: Path, tmp_path: Path, case: str
) -> None:
    if case != "unsigned":
        agent.bundle = sign_bundle(bundle_file, KEY, out=tmp_path / "signed.cxr")
    keys = trust(tmp_path / "keys.toml", OTHER if case == "another's" else KEY, revoked=case == "revoked")
    xrays.put(agent.watch / "a.jpg")
    assert agent.run("--trusted-keys", str(keys)) == SignatureError.exit_code
    assert agent.json("a.jpg") is None
    assert "is not trusted" in agent.log.read_text()


def test_an_unsigned_bundle_without_trusted_keys_runs_and_says_so(agent: Agent, xrays: Xrays) -> None:
    xrays.put(agent.watch / "a.jpg")
    assert agent.run() == 0
    assert "no trusted keys are configured" in agent.log.read_text()


def test_a_proof_measures_and_chooses(bundle_file: Path, samples: Path, tmp_path: Path) -> None:
    bundle = with_golden(bundle_file, samples, tmp_path / "golden.cxr")
    answer = proof.prove(bundle, trust(tmp_path / "keys.toml", KEY), [1, 2])
    assert answer["chosen"]["holds"]
    assert answer["chosen"]["median_ms"] == min(one["median_ms"] for one in answer["tried"])
    assert [one["threads"] for one in answer["tried"]] == [1, 2]
    assert answer["signed_by"]["name"] == "key 0"


def test_a_proof_refuses_what_is_wrong_untrusted_or_cannot_be_proven(
    bundle_file: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = trust(tmp_path / "keys.toml", KEY)
    wrong = with_golden(bundle_file, samples, tmp_path / "wrong.cxr", shift=0.05)
    with pytest.raises(BundleError, match="does not give its own results"):
        proof.prove(wrong, keys, [1])
    with pytest.raises(BundleError, match="no golden X-rays"):
        proof.prove(sign_bundle(bundle_file, KEY, out=tmp_path / "bare.cxr"), keys, [1])
    # What the process says is what the device's other half reads.
    good = with_golden(bundle_file, samples, tmp_path / "good.cxr")
    assert proof.main([str(good), str(trust(tmp_path / "others.toml", OTHER)), "1"]) == SignatureError.exit_code
    assert "is not trusted" in json.loads(capsys.readouterr().out)["error"]["what"]
