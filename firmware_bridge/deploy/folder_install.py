"""Installing a signed folder, on the device itself: by the same code as over SSH, and with no network."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from firmware_bridge.deploy import boot
from firmware_bridge.deploy.folder import (
    CONTENT,
    MOST_LIST_BYTES,
    SIGNATURE,
    Folder,
    check_files,
    damaged,
    open_file,
    read_file,
    read_folder,
)
from firmware_bridge.deploy.folder_trust import chosen_key, trusted_key, verify_by_itself
from firmware_bridge.deploy.history import forbid_downgrade, forget_unused
from firmware_bridge.deploy.install import compile_layer, install, is_installed
from firmware_bridge.deploy.keys import todays_keys
from firmware_bridge.deploy.layers import commit, prepare, receive, state_of_layer
from firmware_bridge.deploy.layout import SERVICE, Layout
from firmware_bridge.deploy.orders import order, settle, settled_and_locked
from firmware_bridge.deploy.proving import prove
from firmware_bridge.deploy.release import Description, write_release
from firmware_bridge.deploy.systemd import state_of
from firmware_bridge.deploy.unit import secret_names
from firmware_bridge.errors import ConfigError, PreflightError

_WATCH_S, _KEEP, _LOCK_WAIT_S = 5.0, 3, 60.0
Say = Callable[[str], None]


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
        ConfigError: a secret that its settings name is not on the device yet.
        DeployError, OSError: anything else; what ran before still runs.
    """
    folder = _fit_folder(path)
    description = folder.description
    with settled_and_locked(layout, wait_s=_LOCK_WAIT_S):
        # Not before: whoever was waited for may have brought a newer one.
        _forbid_older(layout, folder, allow_downgrade=allow_downgrade)
        if todays_keys(layout):
            say(f"signed by {trusted_key(layout, folder).name}")
            _require_secrets(layout, description)
            _take(layout, folder, say=say)
        else:
            chosen_key(folder, trust)
            _require_secrets(layout, description)
            _take_unknown(layout, folder, trust, say=say)
        for done in install(layout, secrets={}, watch=description.watch):
            say(f"made {done}")
        if _runs(layout, description.id):
            say("nothing changed")
            return description.id
        write_release(layout, description)
        say("proving it with the golden X-rays")
        prove(layout, description)
        order(layout, description.id, watch_s=_WATCH_S, keep=_KEEP, reason="folder")
    return settle(layout, description.id, say=say)


def look_at_folder(layout: Layout, path: Path, *, trust: str, allow_downgrade: bool) -> dict[str, Any]:
    """What `install_folder` would do. Changes nothing, and needs no more of the folder than CONTENT and SIGNATURE.

    Returns:
        "changes": whether anything would; "release" and "bundle": what would run; "runs": the release that does, or "";
        "needs": the files of the folder that the installation would read.

    Raises:
        SignatureError, PreflightError, DowngradeError, DeployError: as `install_folder`. A device without cxr-edge has
            nothing that could verify a signature: there, only that `trust` is one of the folder's keys is checked.
    """
    folder = _fit_folder(path)
    description = folder.description
    _forbid_older(layout, folder, allow_downgrade=allow_downgrade)
    if todays_keys(layout):
        trusted_key(layout, folder)
    else:
        chosen_key(folder, trust)
    same = _runs(layout, description.id) and is_installed(layout)
    # As in a deployment over SSH: what looks as when it was last read is not read again where nothing else differs.
    lacks = {
        layer for layer in description.layers.values() if state_of_layer(layout, layer, every_byte=not same) != "intact"
    }
    changes = bool(lacks) or not same
    needs = [name for name in folder.files if not name.startswith("layers/") or any(one in name for one in lacks)]
    return {
        "changes": changes,
        "release": description.id,
        "bundle": dict(description.bundle),
        "runs": layout.linked_id(layout.current) or "",
        "needs": [CONTENT, SIGNATURE, *needs] if changes else [],
    }


def _fit_folder(path: Path) -> Folder:
    """A folder for this device.

    Raises:
        PreflightError: it is for another one.
        DeployError: it is none.
    """
    folder = read_folder(path)
    _check_needs(folder)
    return folder


def _forbid_older(layout: Layout, folder: Folder, *, allow_downgrade: bool) -> None:
    if not allow_downgrade:
        hint = "install the newer one, or say --allow-downgrade if that is what you want"
        forbid_downgrade(layout, folder.description.bundle, do=hint)


def _require_secrets(layout: Layout, description: Description) -> None:
    """No secret travels in a folder: whoever installs it puts them on the device first.

    Raises:
        ConfigError: one is not there; systemd would not start the service without it.
    """
    missing = [name for name in secret_names(description.unit) if not (layout.secrets / name).is_file()]
    if missing:
        folder = f"/{layout.secrets.relative_to(layout.root)}"
        raise ConfigError(
            f"the settings in this folder need the secret {', '.join(missing)}, which is not on this device",
            expected=" and ".join(f"{folder}/{name}" for name in missing),
            came="no such file",
            do=f"sudo install -Dm 600 FILE {folder}/{missing[0]}; then install again",
        )


def _take(layout: Layout, folder: Folder, *, say: Say) -> None:
    """Check the files and put the layers that the device lacks in their places."""
    say("checking every file")
    check_files(folder, there=lambda layer: state_of_layer(layout, layer, every_byte=False) == "intact")
    for kind, hash in folder.description.layers.items():
        if state_of_layer(layout, hash) != "intact":
            say(f"unpacking {kind}")
            _unpack(layout, folder, kind, hash)


def _take_unknown(layout: Layout, folder: Folder, trust: str, *, say: Say) -> None:
    """Likewise on a device that trusts nobody yet; where the signature does not hold, nothing of it stays there.

    Raises:
        SignatureError: it does not.
    """
    fresh = not layout.base.exists()
    lacking = [layer for layer in folder.description.layers.values() if not layout.layer(layer).is_dir()]
    try:
        layout.layers.mkdir(parents=True, exist_ok=True)
        _take(layout, folder, say=say)
        say(f"signed by {verify_by_itself(layout, folder, trust)}")
    except BaseException:
        if fresh:
            shutil.rmtree(layout.base, ignore_errors=True)
        else:
            for layer in lacking:
                forget_unused(layout, layer)
        raise


def _runs(layout: Layout, id: str) -> bool:
    settled = layout.linked_id(layout.current) == id and layout.linked_id(layout.activating) is None
    return settled and state_of(SERVICE).active == "active"


def _unpack(layout: Layout, folder: Folder, kind: str, hash: str) -> None:
    try:  # a layer may be left out where it looked right, until every byte was read
        raw = read_file(folder.path, f"layers/{hash}.json", most_bytes=MOST_LIST_BYTES)
        packed = open_file(folder.path, f"layers/{hash}.tar.gz")
    except OSError as error:
        name = f"layers/{hash}.json and layers/{hash}.tar.gz"
        raise damaged(folder.path, name, error.strerror or str(error)) from error
    with os.fdopen(packed, "rb") as stream:
        if hashlib.sha256(raw).hexdigest() != hash:
            raise damaged(folder.path, f"the listing of layer {hash}", "another one")
        if prepare(layout, raw):
            receive(layout, hash, stream)
    commit(layout, hash, finish=compile_layer if kind in folder.compile else lambda _part, _whole: None)


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
