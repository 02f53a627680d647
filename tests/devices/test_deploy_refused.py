"""Deployments that must not begin: the message says why and what to do, and nothing on the device is touched."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from emulated.host import Host, make_key
from emulated.workstation import Deployment, Workstation, fingerprint, require_runs

MakeHost = Callable[..., Host]


@pytest.fixture
def untouched(deployed: Host, workstation: Workstation, new: Path) -> object:
    """Checks that a deployment of `new` fails with the right words, and changes nothing."""

    def check(kind: str, *words: str, bundle: Path = new, options: tuple[str, ...] = (), **over: object) -> Deployment:
        before = fingerprint(deployed)
        failed = workstation.deploy(bundle, *options, hosts=[deployed], **over).failed(kind, *words)
        assert fingerprint(deployed) == before
        return failed

    return check


Untouched = Callable[..., Deployment]


def test_a_device_that_is_not_there(deployed: Host, workstation: Workstation, old: Path, new: Path, xray: Path) -> None:
    deployed.cable.cut()
    workstation.deploy(new, "--connect-limit", "3", hosts=[deployed]).failed("HostError", "check that the device is on")
    deployed.cable.mend()
    require_runs(deployed, old, xray)


def test_a_device_without_sshd(untouched: Untouched) -> None:
    untouched("HostError", "connection refused", "start sshd", port=2222)


def test_a_key_that_it_does_not_know(untouched: Untouched, tmp_path: Path) -> None:
    untouched("HostError", "authorized_keys", key=make_key(tmp_path / "other"))


def test_a_user_that_it_does_not_know(untouched: Untouched) -> None:
    untouched("HostError", "check the user", user="nobody-here")


def fingerprint_of(host: Host) -> str:
    shown = subprocess.run(["ssh-keygen", "-lf", host.known_hosts], capture_output=True, text=True, check=True)
    return shown.stdout.split()[1]


def test_an_unknown_host_key_is_trusted_only_when_asked_to(
    untouched: Untouched, deployed: Host, workstation: Workstation, new: Path, xray: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "known_hosts"
    empty.touch()
    untouched("HostError", "host key is not known", fingerprint_of(deployed), "--trust-on-first-use", known_hosts=empty)
    assert empty.read_text() == ""
    trusting = workstation.deploy(new, "--trust-on-first-use", hosts=[deployed], known_hosts=empty).succeeded()
    assert f"trusted on first use: ssh-ed25519 {fingerprint_of(deployed)}" in trusting.err
    require_runs(deployed, new, xray)
    assert workstation.deploy(new, hosts=[deployed], known_hosts=empty).succeeded().states == ["nothing changed"]


def test_a_changed_host_key_is_never_trusted(untouched: Untouched, deployed: Host, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(deployed.known_hosts.read_text())
    before = fingerprint_of(deployed)
    deployed.new_host_key()
    deployed.systemctl("restart", "ssh")
    words = ("host key has changed", before, fingerprint_of(deployed), "ssh-keygen -R")
    untouched("HostError", *words, known_hosts=known)
    untouched("HostError", *words, known_hosts=known, options=("--trust-on-first-use",))


def test_a_user_without_sudo(untouched: Untouched, deployed: Host) -> None:
    deployed.set_sudo("none")
    # sudo asks such a user for the password first, and refuses then.
    untouched("HostError", "no way to become root", environment={"CXR_EDGE_SUDO_PASSWORD": deployed.password})


def test_sudo_with_a_password(
    untouched: Untouched, deployed: Host, workstation: Workstation, new: Path, xray: Path, tmp_path: Path
) -> None:
    deployed.set_sudo("password")
    untouched("HostError", "sudo asks for a password", "--ask-sudo-password")
    untouched("HostError", "does not take the password", environment={"CXR_EDGE_SUDO_PASSWORD": "wrong"})
    file = tmp_path / "password"
    file.write_text(deployed.password + "\n")
    done = workstation.deploy(new, "--sudo-password-file", str(file), hosts=[deployed]).succeeded()
    require_runs(deployed, new, xray)
    seen = done.err + deployed.inside("journalctl", "--no-pager").stdout
    assert deployed.password not in seen


def test_an_unsigned_bundle(untouched: Untouched, workstation: Workstation) -> None:
    bundle = workstation.bundle("unsigned", created="2026-03-01T00:00:00Z", key=None)
    untouched("SignatureError", "sign", bundle=bundle)


def test_a_strangers_signature(untouched: Untouched, workstation: Workstation) -> None:
    bundle = workstation.bundle("stranger", created="2026-03-01T00:00:00Z", key="stranger")
    untouched("SignatureError", "trusted", bundle=bundle)


def test_a_bundle_changed_after_it_was_signed(untouched: Untouched, new: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.cxr"
    raw = bytearray(new.read_bytes())
    raw[len(raw) // 2] ^= 1
    changed.write_bytes(raw)
    untouched("BundleError", "damaged", bundle=changed)


def test_an_older_bundle_needs_a_word(
    untouched: Untouched, deployed: Host, workstation: Workstation, xray: Path
) -> None:
    older = workstation.bundle("older", created="2026-01-01T00:00:00Z")
    untouched("DowngradeError", "older than what ran there", "--allow-downgrade", bundle=older)
    workstation.deploy(older, "--allow-downgrade", hosts=[deployed]).succeeded()
    require_runs(deployed, older, xray)


def test_a_target_that_the_device_is_not(untouched: Untouched) -> None:
    untouched("PreflightError", "needs aarch64, this is x86_64", options=("--target", "rpi"))


def test_a_disk_that_is_nearly_full(untouched: Untouched, deployed: Host) -> None:
    # Less than the reserve of targets.toml: what is sent here is small, and asks for next to nothing beyond it.
    deployed.fill_disk(leave_bytes=50_000_000)
    untouched("PreflightError", "MB free", "free some space")


def test_a_wrong_clock(untouched: Untouched, deployed: Host) -> None:
    deployed.skew_clock("-400d")
    untouched("PreflightError", "its clock says", "timedatectl")


def test_a_dry_run_says_what_it_would_do(
    deployed: Host, workstation: Workstation, old: Path, new: Path, xray: Path
) -> None:
    before = fingerprint(deployed)
    words = [word for word in workstation.deploy_words(new, "--dry-run") if word != "--json"]
    done = workstation.run(*words, hosts=[deployed])
    assert done.returncode == 0, done.stderr
    assert "send bundle: 1 of 1 files" in done.stdout
    assert fingerprint(deployed) == before
    require_runs(deployed, old, xray)
