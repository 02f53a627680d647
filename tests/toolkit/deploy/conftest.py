"""A real SSH server on a loopback port, with keys that live for one test; and all that a stick is written from."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from firmware_bridge.deploy.listing import Entry, hash_file
from tests.firmware_bridge.deploy.described import plain_bundle
from toolkit.deploy import wanted
from toolkit.deploy.layer import Layer
from toolkit.keys import make_key as make_signing_key

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


class SshServer:
    """One sshd that lets in whoever has `client_key`."""

    def __init__(self, folder: Path, client_key: Path) -> None:
        self.folder, self.user = folder, getpass.getuser()
        folder.mkdir()
        self.host_key = make_key(folder / "host_key")
        keys = folder / "authorized_keys"
        keys.write_text(Path(f"{client_key}.pub").read_text())
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = int(sock.getsockname()[1])
        self._keys = keys
        self.start()

    def start(self) -> None:
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.host_key}\nPidFile none\n"
            f"AuthorizedKeysFile {self._keys}\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "PermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\nAllowTcpForwarding yes\n"
        )
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stdout=log, stderr=log)
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        pytest.fail(f"sshd does not start: {(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)

    def change_key(self) -> None:
        """As a device that was installed anew, or somebody in between."""
        self.stop()
        for name in ("host_key", "host_key.pub"):
            (self.folder / name).unlink()
        self.host_key = make_key(self.folder / "host_key")
        self.start()


def make_key(path: Path, *, passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)], check=True, timeout=60)
    return path


@pytest.fixture
def client_key(tmp_path: Path) -> Path:
    if not Path(SSHD).exists() or shutil.which("ssh-keygen") is None:
        pytest.skip("needs an SSH server (apt-get install openssh-server)")
    return make_key(tmp_path / "client_key")


@pytest.fixture
def make_server(tmp_path: Path, client_key: Path) -> Iterator[Callable[[], SshServer]]:
    servers: list[SshServer] = []
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)

    def start() -> SshServer:
        servers.append(SshServer(tmp_path / f"sshd{len(servers)}", client_key))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(make_server: Callable[[], SshServer]) -> SshServer:
    return make_server()


INVENTORY = """
[defaults]
target = "rpi-os-12"
config.mqtt.url = "mqtts://edge@broker.clinic.example"
secrets.mqtt-password = "pw"

[hosts.ward-1]
watch = "/srv/ward-1"
config.agent.device = "ward-1"

[hosts.ward-2]
"""


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keys, a signed bundle and an inventory. The packages are one small file: real ones would have to be fetched."""
    package = tmp_path / "package.py"
    package.write_text("answer = 42\n")
    site = Layer({"package.py": Entry(hash_file(package), package.stat().st_size)}, {"package.py": package})
    monkeypatch.setattr(wanted, "build_site", lambda **_options: site)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("own", "second"):
        key = make_signing_key(tmp_path / f"{name}.key", name=name, passphrase=None)
        with (tmp_path / "trusted.toml").open("a") as file:
            file.write(key.to_toml())
    plain_bundle(tmp_path / "chest.cxr", key=tmp_path / "own.key")
    (tmp_path / "clinic.toml").write_text(INVENTORY)
    (tmp_path / "pw").write_text("hunter2")
    return tmp_path
