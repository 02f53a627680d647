"""Where deployments start: keys, signed bundles, the command as a process of its own; and what a device then runs."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emulated.agent import until
from emulated.host import Host
from emulated.machine import Machine
from firmware_bridge.bundle import open_bundle
from firmware_bridge.deploy.folder import CONTENT, SIGNATURE
from firmware_bridge.deploy.layout import SERVICE
from firmware_bridge.manifest import CalibrationEntry, GoldenEntry, ModelEntry
from firmware_bridge.signing import FOLDER_CONTEXT, dump_signatures, sign
from firmware_bridge.trust import TrustedKey
from toolkit.bundle import build_bundle, sign_bundle
from toolkit.keys import make_key, read_key

WATCH = "/srv/cxr-edge"
REPOSITORY = Path(__file__).resolve().parent.parent.parent.parent
_DATA = REPOSITORY / "tests" / "data"
_MODEL = ModelEntry("models/model.int8.tflite", "int8", "models/head.int8.npy", CalibrationEntry(1.0, 0.0, 0.45))
_LIMIT_S = 300.0


class Workstation:
    """One signing key whose bundles devices trust, and a stranger's whose they don't.

    Attributes:
        trusted: file of trusted keys.
        code: the folder whose cxr-edge deploys, and is deployed.
        key_id: of the key that devices trust.
    """

    def __init__(self, folder: Path, images: Sequence[Path]) -> None:
        self._folder = folder
        self._images = {f"golden/{n}.jpg": path for n, path in enumerate(images)}
        own: TrustedKey = make_key(folder / "own.key", name="test", passphrase=None)
        make_key(folder / "stranger.key", name="stranger", passphrase=None)
        self.trusted = folder / "trusted.toml"
        self.trusted.write_text(own.to_toml())
        self.key_id = own.id
        self.code = REPOSITORY
        self._started: list[subprocess.Popen[str]] = []

    def bundle(
        self, name: str, *, created: str, key: str | None = "own", golden_off: float = 0.0, padding_bytes: int = 0
    ) -> Path:
        """A bundle with the tiny model: what it says means nothing, but it says it fast.

        Args:
            name: of the file; every bundle here is called "tiny".
            created: decides which is newer.
            key: who signs: "own", "stranger", or None.
            golden_off: how far its golden results are from what the model says.
            padding_bytes: so much more that has to travel, different in every bundle.
        """
        files: dict[str, bytes | Path] = {
            _MODEL.file: _DATA / "tiny.int8.tflite",
            _MODEL.head: _DATA / "tiny.head.npy",
            **self._images,
        }
        if padding_bytes:
            files["padding.bin"] = secrets.token_bytes(padding_bytes)
        parts: dict[str, Any] = {
            "name": "tiny",
            "labels": ("NORMAL", "PNEUMONIA"),
            "preprocessing": {"version": 1, "steps": [{"name": "resize", "size_px": 32}]},
            "models": [_MODEL],
            "files": files,
            "created": created,
        }
        path = self._folder / f"{name}.cxr"
        with open_bundle(build_bundle(path, **parts)) as draft:
            scorer = draft.scorer(threads=1)
            scores = {name: scorer.score(image.read_bytes()).probability for name, image in self._images.items()}
        golden = [
            GoldenEntry(name, _MODEL.file, probability + golden_off, 0.02) for name, probability in scores.items()
        ]
        build_bundle(path, golden=golden, **parts)
        return sign_bundle(path, read_key(self._folder / f"{key}.key", passphrase=None)) if key else path

    def signed(self, bundle: Path) -> Path:
        """A bundle made elsewhere, signed by the key that devices trust."""
        return sign_bundle(bundle, read_key(self._folder / "own.key", passphrase=None))

    def command(self, *words: str, hosts: Sequence[Host | Machine], **over: Any) -> list[str]:
        """The command line of `cxr-edge WORDS` for `hosts`.

        Args:
            words: subcommand and options.
            hosts: devices.
            over: `key`, `known_hosts`, `user`, `address`, `port` instead of the host's own, or an `inventory`;
                `limit_s`, how long it may take.
        """
        known = self._folder / f"known-{secrets.token_hex(4)}"
        known.write_text("".join(host.known_hosts.read_text() for host in hosts))
        if "inventory" in over:
            return [*self._python(), *words, "--inventory", str(over["inventory"]), "--known-hosts", str(known)]
        if len({host.key for host in hosts}) > 1:
            return [*self._python(), *words, "--inventory", str(self.inventory(hosts)), "--known-hosts", str(known)]
        line = [*self._python(), *words, "--known-hosts", str(over.get("known_hosts", known))]
        line += ["--ssh-key", str(over.get("key", hosts[0].key))]
        for host in hosts:
            port = f":{over['port']}" if "port" in over else ""
            line += ["--host", f"{over.get('user', host.user)}@{over.get('address', host.address)}{port}"]
        return line

    def _python(self) -> list[str]:
        return [sys.executable, "-m", "toolkit.cli.main"]

    def inventory(self, hosts: Sequence[Host | Machine]) -> Path:
        """An inventory file: every host has a key of its own."""
        file = self._folder / f"inventory-{secrets.token_hex(4)}.toml"
        tables = [
            f'[hosts.{host.name}]\naddress = "{host.address}"\nuser = "{host.user}"\nkey = "{host.key}"\n'
            for host in hosts
        ]
        file.write_text("\n".join(tables))
        return file

    def start(self, *words: str, hosts: Sequence[Host | Machine], **over: Any) -> subprocess.Popen[str]:
        """Start the command, and leave it running."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CXR_EDGE_")}
        process = subprocess.Popen(
            self.command(*words, hosts=hosts, **over),
            cwd=self.code,
            env={**environment, **over.get("environment", {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def end_all(self) -> None:
        """End what a failed test left running."""
        for process in self._started:
            with process:
                process.kill()
        self._started.clear()

    def run(self, *words: str, hosts: Sequence[Host | Machine], **over: Any) -> subprocess.CompletedProcess[str]:
        """The command to its end."""
        with self.start(*words, hosts=hosts, **over) as process:
            return finish(process, limit_s=over.get("limit_s", _LIMIT_S))

    def deploy(self, bundle: Path, *options: str, hosts: Sequence[Host | Machine], **over: Any) -> Deployment:
        """`cxr-edge deploy`, to its end."""
        return Deployment(self.run(*self.deploy_words(bundle, *options), hosts=hosts, **over))

    def write_folder(self, bundle: Path, out: Path, *, key: str = "own", python: str = "3.11") -> Path:
        """`cxr-edge deploy --to-usb`: a folder for x86-64 and Debian 12's Python, signed by "own" or "stranger"."""
        words = ["deploy", str(bundle), "--trusted-keys", str(self.trusted), "--to-usb", str(out)]
        words += ["--key", str(self._folder / "own.key"), "--target", "linux-x86-64", "--python", python]
        done = subprocess.run(
            [*self._python(), *words], cwd=self.code, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
        assert done.returncode == 0, done.stderr
        if key != "own":  # the command itself signs with trusted keys alone
            signer = read_key(self._folder / f"{key}.key", passphrase=None)
            signature = sign((out / CONTENT).read_bytes(), signer, context=FOLDER_CONTEXT)
            (out / SIGNATURE).write_bytes(dump_signatures([signature]))
        return out

    def deploy_words(self, bundle: Path, *options: str) -> list[str]:
        """Subcommand and options of a deployment."""
        return ["deploy", str(bundle), "--trusted-keys", str(self.trusted), "--json", "--watch", "1", *options]


def finish(process: subprocess.Popen[str], *, limit_s: float = _LIMIT_S) -> subprocess.CompletedProcess[str]:
    """Wait for a command; what it printed."""
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"no end within {limit_s:g} s:\n{out}\n{err}") from None
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class Deployment:
    """How a deployment ended."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.err = done.returncode, done.stderr
        self.hosts: list[dict[str, Any]] = json.loads(done.stdout)["hosts"] if done.stdout else []

    @property
    def states(self) -> list[str]:
        """Of each host."""
        return [host["state"] for host in self.hosts]

    def succeeded(self) -> Deployment:
        """Itself, if every host runs the bundle."""
        assert self.code == 0, self.err
        assert set(self.states) <= {"running", "nothing changed"}, self.hosts
        return self

    def failed(self, kind: str, *words: str) -> Deployment:
        """Itself, if it failed with an error of that kind whose text holds those words and says what to do."""
        assert self.code != 0, self.hosts
        error = self.hosts[0]["error"] if self.hosts else {"kind": "", "do": "-"}
        if self.hosts:
            assert error["kind"] == kind, self.err
            assert error["do"], error
        assert "do:" in self.err, self.err
        for word in words:
            assert word in self.err, self.err
        return self


def bundle_id(bundle: Path) -> str:
    """The id of a bundle."""
    with open_bundle(bundle) as opened:
        return opened.id


def require_runs(host: Host, bundle: Path, image: Path) -> None:
    """That the device runs exactly that bundle, that it scores with it, and that nothing is half done."""
    base = host.root / "opt" / "cxr-edge"
    until(lambda: not (base / "activating").is_symlink(), timeout_s=120, what="the switch to be settled")
    release = base / "releases" / (base / "current").readlink().name
    assert json.loads((release / "release.json").read_bytes())["bundle"]["id"] == bundle_id(bundle)
    state = f"{host.show(SERVICE, 'ActiveState')} {host.show(SERVICE, 'UnitFileState')}"
    assert state.startswith("active"), f"{state}\n{host.inside('journalctl', '-u', SERVICE, '-n', '30').stdout}"
    record = score(host, image)
    assert record["bundle"]["id"] == bundle_id(bundle)
    assert record["decision"] in ("positive", "negative")


def score(host: Host, image: Path) -> Any:
    """Drop an X-ray, unlike any other, into the watched folder; its record."""
    folder = host.root / WATCH.lstrip("/")
    path = folder / f"{secrets.token_hex(4)}.jpg"
    real = image.read_bytes()
    path.with_name(f".{path.name}").write_bytes(
        real[:2] + b"\xff\xfe\x00\x0a" + secrets.token_hex(4).encode() + real[2:]
    )
    path.with_name(f".{path.name}").rename(path)
    beside = path.with_name(f"{path.name}.cxr.json")

    def log() -> str:
        return host.inside("journalctl", "--no-pager", "-u", SERVICE, "-n", "30", "-o", "cat", check=False).stdout

    until(beside.exists, timeout_s=90, what=f"a score; log:\n{log()}")
    return json.loads(beside.read_bytes())


def fingerprint(host: Host) -> tuple[str, str]:
    """Everything that deployments write on a device, with times, and the service's process: equal means untouched."""
    places = "/opt/cxr-edge", "/etc/cxr-edge", "/etc/systemd/system", "/usr/local/bin"
    found = host.inside("find", *places, "-printf", "%p %T@ %m %u %s %l\\n", check=False).stdout
    assert "/opt/cxr-edge/current" in found
    return "\n".join(sorted(found.splitlines())), host.show(SERVICE, "MainPID")


def parts(host: Host) -> list[Path]:
    """Layers that are only half there, seen from here."""
    return list((host.root / "opt/cxr-edge/layers").glob(".*.part"))
