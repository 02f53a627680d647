"""A release: which layers, which config, which unit, and the proof that it works on this device."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from firmware_bridge.deploy.layout import Layout, is_id
from firmware_bridge.errors import DeployError
from firmware_bridge.files import sync_folder, write_atomically

SCHEMA = 1
PLACE = "@RELEASE@"
APP, SITE, BUNDLE = "app", "site", "bundle"
BUNDLE_FILE = "bundle/bundle.cxr"
# In the release, not beside it: keys change with the same switch as what they vouch for, so that a deployment which
# changes keys and is cut off cannot leave the old release without the key that its own bundle needs.
TRUSTED_KEYS = "trusted-keys.toml"
DESCRIPTION, PROOF, OUTCOME, ORDER, CHOSEN, ENGINES = (
    "release.json",
    "proof.json",
    "outcome.json",
    "activation.json",
    "chosen.env",
    "engines.json",
)
# How a switch ended: in OUTCOME.
RUNNING, ROLLED_BACK = "running", "rolled back"
# In `Description.extra`: the version of TensorRT for which engines are built; "any" where nobody knows it beforehand.
TENSORRT = "tensorrt"
# "user:password@" of an address. The agent refuses such addresses; one that is written down all the same stays here.
_LOGIN = re.compile(r"//[^@\s\"']*:[^@\s\"']*@")
_LAUNCHER = f"""#!/bin/sh
# cxr-edge of this release, with its own packages and nobody else's.
export PYTHONPATH={PLACE}/app:{PLACE}/site PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1
exec /usr/bin/python3 -m toolkit.cli.main "$@"
"""


@dataclass(frozen=True, slots=True)
class Description:
    """What a release consists of; the workstation makes it, its hash is the release's id. No times: equal is equal.

    Attributes:
        layers: "app", "site", "bundle" -> hash.
        bundle: its "name", "id" and "created".
        target: the name of the target that the packages were chosen for.
        config: the agent's TOML; `PLACE` stands for the release's folder.
        unit: the systemd unit; likewise.
        trusted_keys: the text of the file: whose bundles this release trusts, itself among them.
        watch: the watched folder.
        broker: "host:port" that must be reachable; empty: none.
        threads: numbers of threads to try; the fastest is kept.
    """

    layers: Mapping[str, str]
    bundle: Mapping[str, str]
    target: str
    config: str
    unit: str
    trusted_keys: str
    watch: str
    broker: str = ""
    threads: tuple[int, ...] = (1,)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The content of `release.json`."""
        return {
            "schema": SCHEMA,
            "layers": dict(self.layers),
            "bundle": dict(self.bundle),
            "target": self.target,
            "config": self.config,
            "unit": self.unit,
            "trusted_keys": self.trusted_keys,
            "watch": self.watch,
            "broker": self.broker,
            "threads": list(self.threads),
            "extra": dict(self.extra),
        }

    def to_bytes(self) -> bytes:
        """The bytes whose hash is the id."""
        return json.dumps(self.to_json(), ensure_ascii=False, sort_keys=True, indent=1).encode() + b"\n"

    @property
    def id(self) -> str:
        """16 hex digits."""
        return _id_of(self.to_bytes())

    def shown(self) -> dict[str, str]:
        """What distinguishes releases of one bundle, fit for other eyes: no secret stands in it.

        Returns:
            "config", "unit" and "trusted_keys" as text; "app" and "site": the hashes of code and packages.
        """
        texts = {"config": _LOGIN.sub("//…@", self.config), "unit": self.unit, "trusted_keys": self.trusted_keys}
        return {**texts, APP: self.layers[APP], SITE: self.layers[SITE]}


def _id_of(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]


def parse_description(content: Any) -> Description:
    """Read the content of `release.json`.

    Raises:
        DeployError: another schema, a field missing or of another kind.
    """
    try:
        if content["schema"] != SCHEMA or not all(is_id(hash) for hash in content["layers"].values()):
            raise ValueError("another schema, or a layer that is no hash")
        if content["layers"].keys() != {APP, SITE, BUNDLE}:
            raise ValueError("other layers")
        texts = {name: _text(content[name]) for name in ("target", "config", "unit", "trusted_keys", "watch", "broker")}
        bundle = {name: _text(content["bundle"][name]) for name in ("name", "id", "created")}
        threads = tuple(int(one) for one in content["threads"])
        return Description(dict(content["layers"]), bundle, threads=threads, extra=dict(content["extra"]), **texts)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DeployError(
            "a release cannot be read",
            expected=f"release.json of schema {SCHEMA}",
            came=f"{type(error).__name__}: {error}",
            do="use the same version of cxr-edge at both ends, or deploy again",
        ) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def write_release(layout: Layout, description: Description) -> Path:
    """Make the folder of a release out of layers that are there. Nothing changes where it is there as it should be.

    Raises:
        DeployError: a layer is missing.
        OSError: the disk is full or cannot be written.
    """
    for hash in description.layers.values():
        if not layout.layer(hash).is_dir():
            raise DeployError(
                "a release is not complete",
                expected=f"layer {hash[:16]} on the device",
                came="it is not there",
                do="deploy again",
            )
    folder = layout.release(description.id)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # whatever the umask was that it was made under
    place = f"/opt/cxr-edge/releases/{description.id}"
    for kind, hash in description.layers.items():
        if not (folder / kind).is_symlink() or str((folder / kind).readlink()) != f"../../layers/{hash}":
            point(folder / kind, f"../../layers/{hash}")
    texts = {
        "agent.toml": description.config,
        "cxr-edge.service": description.unit,
        TRUSTED_KEYS: description.trusted_keys,
        "cxr-edge": _LAUNCHER,
    }
    for name, text in texts.items():
        _hold(folder / name, text.replace(PLACE, place).encode(), mode=0o755 if name == "cxr-edge" else 0o644)
    # Last: a folder with a description is a whole release.
    _hold(folder / DESCRIPTION, description.to_bytes(), mode=0o644)
    sync_folder(folder)
    return folder


def _hold(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file unless it is there as it should be: it may be the running release's."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == content and path.lstat().st_mode == 0o100000 | mode:
            return
    write_atomically(path, content, mode=mode)


def point(link: Path, target: str) -> None:
    """Make or change a symbolic link, atomically."""
    part = link.with_name(f".{link.name}.link")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(link)


def switch(layout: Layout, link: Path, id: str | None) -> None:
    """Let `current` or `activating` lead to a release (None: nowhere), atomically and durably.

    Raises:
        OSError: it cannot be written.
    """
    if id is None:
        link.unlink(missing_ok=True)
    else:
        point(link, f"releases/{id}")
    sync_folder(layout.base)


def read_release(layout: Layout, id: str) -> Description:
    """The description of a release.

    Raises:
        DeployError: there is none, or it cannot be read.
    """
    try:
        raw = (layout.release(id) / DESCRIPTION).read_bytes()
        if _id_of(raw) != id:
            raise ValueError(f"a {DESCRIPTION} whose bytes changed since it was written")
        return parse_description(json.loads(raw))
    except (OSError, ValueError) as error:
        raise DeployError(
            f"release {id} cannot be read",
            expected="a release on this device",
            came=str(error),
            do="`cxr-edge status` lists what is there; deploy again",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none or a power cut left nothing of it."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            return content
    return {}


def write_json(path: Path, content: Mapping[str, Any], *, mode: int = 0o644) -> None:
    """Write a JSON object, whole and durably.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(path, json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n", mode=mode)
    sync_folder(path.parent)


def read_if_whole(layout: Layout, id: str) -> Description | None:
    """The description of a release; None where it is missing or damaged."""
    with contextlib.suppress(DeployError):
        return read_release(layout, id)
    return None


def environment_of(folder: Path) -> dict[str, str]:
    """With which a release's Python finds its own packages, and nobody else's."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": f"{folder / APP}:{folder / SITE}",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/nonexistent",
    }
