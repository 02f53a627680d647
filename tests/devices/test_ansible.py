"""The Ansible role against real systems over real SSH: what it installs, what it leaves alone, what it refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from emulated.host import Host
from emulated.rootfs import DEBIAN_12
from emulated.workstation import REPOSITORY, Workstation, fingerprint, require_runs

MakeHost = Callable[..., Host]
ANSIBLE = Path(sys.executable).parent / "ansible-playbook"
ROLES = REPOSITORY / "toolkit" / "deploy" / "ansible" / "roles"
PLAYBOOK = "- hosts: all\n  become: true\n  gather_facts: false\n  roles: [cxr_edge]\n"
LIMIT_S = 600.0


@dataclass(frozen=True)
class Play:
    """How a run of the role ended."""

    code: int
    output: str

    @property
    def changed(self) -> int:
        found = re.search(r"changed=(\d+)", self.output)
        assert found, self.output
        return int(found[1])

    def succeeded(self) -> Play:
        assert self.code == 0, self.output
        return self

    def failed(self, *words: str) -> Play:
        assert self.code == 2, self.output
        for word in words:
            assert word in self.output
        return self


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., Play]:
    """Runs the role on a device."""
    if not ANSIBLE.exists():
        pytest.skip("needs ansible-core: pip install '.[dev]'")
    book = tmp_path / "play.yml"
    book.write_text(PLAYBOOK)

    def run(host: Host, folder: Path, *options: str, **variables: object) -> Play:
        line = [str(ANSIBLE), "-i", f"{host.address},", "--user", host.user, "--private-key", str(host.key), str(book)]
        known = f"-o UserKnownHostsFile={host.known_hosts} -o StrictHostKeyChecking=yes -F none"
        for name, value in {"folder": folder, **variables}.items():
            line += ["-e", f"cxr_edge_{name}={value}"]
        line += ["-e", "ansible_python_interpreter=/usr/bin/python3", "--ssh-common-args", known, *options]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_ROLES_PATH": str(ROLES),
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
            # No shared connection: the path of its socket, below a test's folder, is longer than a socket may have.
            "ANSIBLE_SSH_ARGS": "-o ControlMaster=no",
            "ANSIBLE_PIPELINING": "true",  # as most people have it; half the round trips
        }
        done = subprocess.run(
            line, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=LIMIT_S, check=False
        )
        return Play(done.returncode, done.stdout + done.stderr)

    return run


@pytest.fixture(scope="session")
def make_folder(the_workstation: Workstation, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a signed folder for Debian 12 on x86-64."""

    def write(bundle: Path, *, key: str = "own") -> Path:
        return the_workstation.write_folder(bundle, tmp_path_factory.mktemp("folder") / "cxr-edge", key=key)

    return write


def staged(host: Host) -> list[Path]:
    return list((host.root / "var" / "tmp").glob("cxr-edge-*"))


def test_the_first_run_installs_and_the_second_changes_nothing(
    make_host: MakeHost,
    make_folder: Callable[..., Path],
    workstation: Workstation,
    play: Callable[..., Play],
    old: Path,
    xray: Path,
) -> None:
    host, folder = make_host(DEBIAN_12), make_folder(old)
    assert play(host, folder, "--check", trust=workstation.key_id).succeeded().changed == 1
    play(host, folder).failed("this device trusts no key yet", workstation.key_id)
    assert not (host.root / "opt" / "cxr-edge").exists()
    assert play(host, folder, trust=workstation.key_id).succeeded().changed == 1
    require_runs(host, old, xray)
    before = fingerprint(host)
    assert play(host, folder).succeeded().changed == 0
    assert play(host, folder, "--check").succeeded().changed == 0
    assert fingerprint(host) == before
    assert staged(host) == []


@pytest.mark.devices_all
def test_what_is_refused_leaves_the_old_release_running(
    deployed: Host,
    make_folder: Callable[..., Path],
    workstation: Workstation,
    play: Callable[..., Play],
    old: Path,
    new: Path,
    xray: Path,
) -> None:
    before = fingerprint(deployed)
    stranger = make_folder(new, key="stranger")
    play(deployed, stranger, "--check").failed("trusted")
    play(deployed, stranger, trust=workstation.key_id).failed("trusted")
    changed = make_folder(new)
    (layer, *_) = sorted((changed / "layers").glob("*.tar.gz"), key=lambda path: path.stat().st_size)
    layer.write_bytes(layer.read_bytes()[:-1] + b"x")
    play(deployed, changed).failed("is damaged")
    content = changed / "folder.json"
    content.write_bytes(content.read_bytes() + b"\n")
    play(deployed, changed).failed("trusted")
    older = make_folder(workstation.bundle("older-folder", created="2026-01-01T00:00:00Z"))
    play(deployed, older).failed("is older than what ran here")
    play(deployed, older, "--check").failed("is older than what ran here")
    assert fingerprint(deployed) == before
    assert staged(deployed) == []
    require_runs(deployed, old, xray)


def test_a_newer_bundle_updates_a_strangers_does_not_and_an_older_one_needs_a_word(
    deployed: Host, make_folder: Callable[..., Path], play: Callable[..., Play], old: Path, new: Path, xray: Path
) -> None:
    newer, back = make_folder(new), make_folder(old)
    before = fingerprint(deployed)
    play(deployed, make_folder(new, key="stranger")).failed("trusted")
    shown = play(deployed, newer, "--check").succeeded()
    assert shown.changed == 1
    assert "2026-03-01T00:00:00Z" in shown.output
    assert fingerprint(deployed) == before
    updated = play(deployed, newer).succeeded()
    assert updated.changed == 1
    assert len(re.findall(r"item=layers/", updated.output)) == 2, "the bundle's layer alone is sent"
    require_runs(deployed, new, xray)
    play(deployed, back).failed("is older than what ran here")
    require_runs(deployed, new, xray)
    assert play(deployed, back, allow_downgrade=True).succeeded().changed == 1
    require_runs(deployed, old, xray)
    assert staged(deployed) == []


def test_a_variable_that_is_missing_or_wrong_is_told(deployed: Host, play: Callable[..., Play], tmp_path: Path) -> None:
    play(deployed, tmp_path / "nothing").failed("folder.json")
    play(deployed, tmp_path, allow_downgrade="perhaps").failed("cxr_edge_allow_downgrade")
