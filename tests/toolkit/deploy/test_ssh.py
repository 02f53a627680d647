"""Getting in, over a real SSH server: what is wrong is told apart, and a host's key is never taken on trust unasked."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.errors import ConfigError, DeployError, HostError
from toolkit.deploy.device import at_device
from toolkit.deploy.facts import Facts
from toolkit.deploy.inventory import Host
from toolkit.deploy.ssh import Access, connected

from .conftest import SshServer, make_key


@pytest.fixture
def access(tmp_path: Path) -> Access:
    return Access(known_hosts=tmp_path / "ssh" / "known_hosts", trust_on_first_use=True)


@pytest.fixture
def host(server: SshServer, client_key: Path) -> Host:
    return Host("box", "127.0.0.1", user=server.user, port=server.port, key=str(client_key))


def say_hello(host: Host, access: Access) -> str:
    async def body() -> str:
        async with connected(host, access) as connection:
            return str((await connection.run("echo hello", check=True)).stdout).strip()

    return asyncio.run(body())


def test_an_unknown_key_is_refused_with_its_fingerprint_until_it_is_trusted(host: Host, access: Access) -> None:
    with pytest.raises(HostError, match="not known") as caught:
        say_hello(host, replace(access, trust_on_first_use=False))
    assert "ssh-ed25519 SHA256:" in caught.value.came
    assert "--trust-on-first-use" in caught.value.do
    said: list[str] = []
    assert say_hello(host, replace(access, say=said.append)) == "hello"
    assert said == [f"box: trusted on first use: {caught.value.came}"]
    # From then on it is known, and nothing is said.
    assert say_hello(host, replace(access, trust_on_first_use=False, say=said.append)) == "hello"
    assert len(said) == 1


def test_a_changed_key_is_told_apart_from_an_unknown_one_and_never_trusted(
    host: Host, access: Access, server: SshServer
) -> None:
    say_hello(host, access)
    known = access.known_hosts.read_text()
    server.change_key()
    with pytest.raises(HostError, match="has changed") as caught:
        say_hello(host, access)
    assert caught.value.expected.count("SHA256:") == 1
    assert caught.value.came.startswith("ssh-ed25519 SHA256:")
    assert caught.value.came not in caught.value.expected
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}'" in caught.value.do
    assert access.known_hosts.read_text() == known


def test_who_only_looks_writes_no_key_down(host: Host, access: Access) -> None:
    said: list[str] = []
    assert say_hello(host, replace(access, keep_trusted=False, say=said.append)) == "hello"
    assert "not written down" in said[0]
    assert not access.known_hosts.exists()


def test_a_file_of_known_hosts_whose_last_line_is_open_keeps_it(host: Host, access: Access) -> None:
    access.known_hosts.parent.mkdir()
    access.known_hosts.write_text("other ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBpkdWRlZHVkZWR1ZGVkdWRlZHVkZWR1ZGVkdWRl")
    assert say_hello(host, access) == "hello"
    assert [line.split()[0] for line in access.known_hosts.read_text().splitlines()] == [
        "other",
        f"[127.0.0.1]:{host.port}",
    ]


def test_known_hosts_that_cannot_be_read_are_named(host: Host, access: Access) -> None:
    access.known_hosts.mkdir(parents=True)
    with pytest.raises(ConfigError, match="the known hosts") as caught:
        say_hello(host, access)
    assert caught.value.came == "Is a directory"
    access.known_hosts.rmdir()
    access.known_hosts.write_text("half a line\n<<<<<<<\n")
    with pytest.raises(ConfigError, match="the known hosts") as caught:
        say_hello(host, access)
    assert "<<<<<<<" in caught.value.came


@pytest.mark.parametrize("address", ["a" * 70 + ".example", "ü" * 70])
def test_a_name_that_no_name_server_can_have(host: Host, access: Access, address: str) -> None:
    with pytest.raises(HostError) as caught:
        say_hello(replace(host, address=address), access)
    assert "mend the name" in caught.value.do


def test_a_key_that_the_host_does_not_know(host: Host, access: Access, tmp_path: Path) -> None:
    stranger = replace(host, key=str(make_key(tmp_path / "stranger")))
    with pytest.raises(HostError, match="cannot be reached") as caught:
        say_hello(stranger, access)
    assert "authorized_keys" in caught.value.do


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "none", "No such file"),
        (lambda folder: make_key(folder / "key").with_name("key.pub"), "the public half"),
        (lambda folder: make_key(folder / "key", passphrase="open sesame"), "a passphrase, no agent"),
        (lambda folder: text_file(folder / "key"), "a private key of OpenSSH"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_told_before_anybody_connects(
    access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path], words: str
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    nobody = Host("box", "127.0.0.1", port=1, key=str(make(tmp_path)))
    with pytest.raises(ConfigError, match="the SSH key") as caught:
        say_hello(nobody, access)
    assert words in str(caught.value)


def text_file(path: Path) -> Path:
    path.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n-----END OPENSSH PRIVATE KEY-----\n")
    return path


@pytest.fixture
def ssh_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client_key: Path) -> Iterator[None]:
    assert client_key.exists()  # skips where there is no OpenSSH
    socket_file = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket_file)], stdout=subprocess.DEVNULL) as agent:
        while not socket_file.exists():
            time.sleep(0.01)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_file))
        yield
        agent.terminate()


@pytest.mark.usefixtures("ssh_agent")
def test_a_key_with_a_passphrase_comes_out_of_the_agent(host: Host, access: Access, client_key: Path) -> None:
    subprocess.run(["ssh-add", "-q", str(client_key)], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "open sesame", "-f", str(client_key)], check=True)
    assert say_hello(host, access) == "hello"
    subprocess.run(["ssh-add", "-q", "-D"], check=True, stderr=subprocess.DEVNULL)
    with pytest.raises(HostError, match="cannot be reached") as caught:
        say_hello(host, access)
    assert f"{client_key} has a passphrase" in caught.value.do


def test_a_usual_key_that_was_passed_over_is_named(
    host: Host, access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    usual = make_key(tmp_path / ".ssh" / "id_ed25519", passphrase="open sesame")
    with pytest.raises(HostError, match="cannot be reached") as caught:
        say_hello(replace(host, key=""), access)
    assert f"{usual} has a passphrase" in caught.value.do


def test_nobody_listens(host: Host, access: Access) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(HostError) as caught:
            say_hello(replace(host, port=sock.getsockname()[1]), access)
    assert "refused" in caught.value.came


def test_a_host_that_takes_the_connection_and_says_nothing(host: Host, access: Access) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with pytest.raises(HostError) as caught:
            say_hello(replace(host, port=sock.getsockname()[1]), replace(access, limit_s=1.0))
    assert "an answer from" in caught.value.expected


def test_a_name_that_nobody_knows(host: Host, access: Access) -> None:
    with pytest.raises(HostError) as caught:
        say_hello(replace(host, address="no-such-host.invalid"), access)
    assert "mend the name" in caught.value.do


def test_through_a_jump_host_whose_key_is_checked_as_well(
    make_server: Callable[[], SshServer], client_key: Path, access: Access
) -> None:
    gate, inner = make_server(), make_server()
    host = Host(
        "inner",
        "127.0.0.1",
        user=inner.user,
        port=inner.port,
        key=str(client_key),
        jump=f"{gate.user}@127.0.0.1:{gate.port}",
    )
    said: list[str] = []
    assert say_hello(host, replace(access, say=said.append)) == "hello"
    assert len(said) == 2
    gate.change_key()
    with pytest.raises(HostError, match="jump host"):
        say_hello(host, access)


def facts_of(host: Host, access: Access) -> Facts:
    async def body() -> Facts:
        async with at_device(host, access, password=lambda: None) as device:
            return device.facts

    return asyncio.run(body())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the device's half runs as root")
def test_facts_come_home_and_what_the_device_raises_is_raised_here(host: Host, access: Access) -> None:
    facts = facts_of(host, access)
    assert facts.uid == 0
    assert facts.hostname == socket.gethostname()

    async def body() -> None:
        async with at_device(host, access, password=lambda: None) as device:
            await device.request("release", description={"schema": 99})

    with pytest.raises(DeployError, match="box: a release cannot be read"):
        asyncio.run(body())
