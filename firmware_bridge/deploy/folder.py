"""A deployment without a network: a signed folder (a USB stick), installed by the same code as over SSH.

install             sh install [--trust KEY] [--allow-downgrade], as root
cxr-edge.zip        this code
folder.json         the release, what it needs, and the SHA-256 of every other file
folder.json.sig     signatures over folder.json
layers/HASH.json    what is in a layer
layers/HASH.tar.gz  the layer
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.deploy import boot
from firmware_bridge.deploy.activate import order, settle, settled_and_locked
from firmware_bridge.deploy.history import forbid_downgrade
from firmware_bridge.deploy.install import PYTHON, compile_layer, install
from firmware_bridge.deploy.layers import commit, hash_file, prepare, receive, state_of_layer
from firmware_bridge.deploy.layout import SERVICE, Layout
from firmware_bridge.deploy.proving import prove
from firmware_bridge.deploy.release import APP, SITE, TRUSTED_KEYS, Description, parse_description, write_release
from firmware_bridge.deploy.systemd import state_of
from firmware_bridge.errors import DeployError, PreflightError, SignatureError
from firmware_bridge.signing import FOLDER_CONTEXT, parse_signatures, require_signature
from firmware_bridge.trust import TrustedKey, parse_trusted_keys, read_trusted_keys

SCHEMA = 1
KIND = "cxr-edge-folder"
CONTENT, SIGNATURE, CODE, SCRIPT = "folder.json", "folder.json.sig", "cxr-edge.zip", "install"
_WATCH_S, _KEEP, _LOCK_WAIT_S = 5.0, 3, 60.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Folder:
    """An opened folder: every file is as listed. Whose it is has still to be asked.

    Attributes:
        path: where it is.
        raw: the bytes that are signed.
        description: the release in it.
        needs: "machine", "python", "glibc" of the device.
        compile: kinds of layers that the device compiles.
        created: moment in UTC.
    """

    path: Path
    raw: bytes
    description: Description
    needs: Mapping[str, str]
    compile: tuple[str, ...]
    created: str

    def require_trust(self, trusted: tuple[TrustedKey, ...]) -> TrustedKey:
        """The key that signed it.

        Raises:
            SignatureError: nobody who is trusted.
        """
        try:
            raw = (self.path / SIGNATURE).read_bytes()
        except OSError as error:
            raise SignatureError(
                f"{self.path} is not signed",
                expected=f"{SIGNATURE} in it",
                came=error.strerror or str(error),
                do="write it again with `cxr-edge deploy --to-usb`",
            ) from error
        signatures = parse_signatures(raw)
        return require_signature(self.raw, signatures, trusted, context=FOLDER_CONTEXT, created=self.created)


def open_folder(path: Path) -> Folder:
    """Read a folder and check every file in it.

    Raises:
        DeployError: it is no such folder, or a file is missing or changed.
    """
    try:
        raw = (path / CONTENT).read_bytes()
        content = json.loads(raw)
        if (content["schema"], content["kind"]) != (SCHEMA, KIND):
            raise ValueError("another schema or kind")
        files = {str(name): str(hash) for name, hash in content["files"].items()}
        folder = Folder(
            path,
            raw,
            parse_description(content["release"]),
            {str(name): str(value) for name, value in content["needs"].items()},
            tuple(content["compile"]),
            str(content["created"]),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(path, f"a folder written by `cxr-edge deploy --to-usb` ({CONTENT})", str(error)) from error
    for name, hash in files.items():
        _check_file(path, name, hash)
    for layer in folder.description.layers.values():
        for name in (f"layers/{layer}.json", f"layers/{layer}.tar.gz"):
            if name not in files:
                raise _damaged(path, f"{name} listed in {CONTENT}", "it is not")
    return folder


def _check_file(path: Path, name: str, hash: str) -> None:
    parts = Path(name).parts
    if Path(name).is_absolute() or ".." in parts or len(parts) > 2:
        raise _damaged(path, "plain names", repr(name)[:80])
    try:
        came = hash_file(path / name)
    except OSError as error:
        raise _damaged(path, name, error.strerror or str(error)) from error
    if came != hash:
        raise _damaged(path, f"{name} with SHA-256 {hash}", came)


def install_folder(layout: Layout, path: Path, *, trust: str, allow_downgrade: bool, say: Say) -> str:
    """Install what is in a folder: verified, proven, watched; or leave what runs.

    Args:
        layout: the device.
        path: the folder.
        trust: id of the key that the first installation on a device shall trust; later ones ask the running release.
        allow_downgrade: an older bundle of the same name may replace a newer one.
        say: called with each step.

    Returns:
        The release that runs now.

    Raises:
        SignatureError: nobody who is trusted signed it.
        PreflightError: it is for another kind of device.
        DowngradeError: the device ran a newer bundle.
        RolledBack: it did not stay up.
        DeployError, OSError: anything else; what ran before still runs.
    """
    say("checking every file")
    folder = open_folder(path)
    description = folder.description
    _check_needs(folder)
    if not allow_downgrade:
        hint = "install the newer one, or say --allow-downgrade if that is what you want"
        forbid_downgrade(layout, description.bundle, do=hint)
    with settled_and_locked(layout, wait_s=_LOCK_WAIT_S):
        running = layout.current / TRUSTED_KEYS
        if running.is_file():
            say(f"signed by {folder.require_trust(read_trusted_keys(running)).name}")
        else:
            _chosen_key(folder, trust)
        for done in install(layout, secrets={}, watch=description.watch):
            say(f"made {done}")
        for kind, hash in description.layers.items():
            if state_of_layer(layout, hash) != "intact":
                say(f"unpacking {kind}")
                _unpack(layout, folder, kind, hash)
        if not running.is_file():
            say(f"signed by {_verify_by_itself(layout, folder, trust)}")
        if _runs(layout, description.id):
            say("nothing changed")
            return description.id
        write_release(layout, description)
        say("proving it with the golden X-rays")
        prove(layout, description)
        order(layout, description.id, watch_s=_WATCH_S, keep=_KEEP, reason="folder")
    return settle(layout, description.id, say=say)


def _runs(layout: Layout, id: str) -> bool:
    settled = layout.linked_id(layout.current) == id and layout.linked_id(layout.activating) is None
    return settled and state_of(SERVICE).active == "active"


def _unpack(layout: Layout, folder: Folder, kind: str, hash: str) -> None:
    raw = (folder.path / "layers" / f"{hash}.json").read_bytes()
    if hashlib.sha256(raw).hexdigest() != hash:
        raise _damaged(folder.path, f"the listing of layer {hash}", "another one")
    if prepare(layout, raw):
        with (folder.path / "layers" / f"{hash}.tar.gz").open("rb") as stream:
            receive(layout, hash, stream)
    commit(layout, hash, finish=compile_layer if kind in folder.compile else lambda _part, _whole: None)


def _chosen_key(folder: Folder, trust: str) -> TrustedKey:
    """The key that a first installation is told to trust.

    Raises:
        SignatureError: none is named, or it is not among those of the folder.
    """
    keys = parse_trusted_keys(folder.description.trusted_keys.encode(), folder.path / TRUSTED_KEYS)
    for key in keys:
        if trust and key.id == trust:
            return key
    shown = ", ".join(f"{key.name} ({key.id})" for key in keys)
    raise SignatureError(
        "this device trusts no key yet",
        expected="--trust and the id of a key that you know: whoever wrote the folder has it",
        came=f"--trust {trust}" if trust else "nothing",
        do=f"compare with the folder's keys, {shown}; then: sudo sh install --trust {keys[0].id}",
    )


def _verify_by_itself(layout: Layout, folder: Folder, trust: str) -> str:
    """Verify with the folder's own cryptography library: on a first installation there is no other."""
    layers = folder.description.layers
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "PYTHONPATH": f"{layout.layer(layers[APP])}:{layout.layer(layers[SITE])}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [PYTHON, "-m", "firmware_bridge.deploy", "verify", str(folder.path), trust]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    if done.returncode:
        raise SignatureError(
            "the folder's signature does not hold",
            expected=f"a signature by key {trust}",
            came=done.stderr.strip()[-300:] or f"exit code {done.returncode}",
            do="do not use this folder; write it again with `cxr-edge deploy --to-usb`",
        )
    return done.stdout.strip()


def verify_folder(path: Path, trust: str) -> str:
    """The name of the key `trust`, which signed the folder.

    Raises:
        SignatureError: it did not.
    """
    folder = open_folder(path)
    return folder.require_trust((_chosen_key(folder, trust),)).name


def _check_needs(folder: Folder) -> None:
    facts, needs = boot.facts(), folder.needs
    against = [
        f"its {name} is {came}, needed: {needs[name]}"
        for name, came in (("machine", facts["machine"]), ("python", "{}.{}".format(*facts["python"])))
        if came != needs[name]
    ]
    if _numbers(str(facts["glibc"])) < _numbers(needs["glibc"]):
        against.append(f"its glibc is {facts['glibc'] or 'none'}, needed: {needs['glibc']}")
    if not facts["systemd"]:
        against.append("systemd does not run")
    if facts["uid"] != 0:
        against.append("this is not root (sudo sh install)")
    if against:
        raise PreflightError(
            "this folder cannot be installed here",
            expected=f"a device for target {folder.description.target}",
            came="; ".join(against),
            do="write a folder for this kind of device: `cxr-edge deploy --to-usb DIR --target ...`",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _damaged(path: Path, expected: str, came: str) -> DeployError:
    return DeployError(
        f"the folder {path} is damaged", expected=expected, came=came[:300], do="copy it again, or write it again"
    )
