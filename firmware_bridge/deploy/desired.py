"""The root half of an update that the agent fetched: another bundle, everything else as it is.

The agent has no rights to change what runs. It puts a file down; a systemd path unit sees it and runs this, which
trusts the file's signature and nothing else: neither the agent, nor the broker, nor the server that the file came from.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from firmware_bridge.bundle import MAX_BUNDLE_BYTES, open_bundle
from firmware_bridge.deploy.foreign import open_folder, open_regular
from firmware_bridge.deploy.history import forbid_downgrade, forget_unused
from firmware_bridge.deploy.keys import todays_keys, with_todays_keys
from firmware_bridge.deploy.layers import commit, place, prepare
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.listing import Entry, dump_listing, hash_file, layer_hash
from firmware_bridge.deploy.orders import order, settle, settled_and_locked
from firmware_bridge.deploy.proving import prove
from firmware_bridge.deploy.release import BUNDLE, BUNDLE_FILE, Description, read_release, write_release
from firmware_bridge.deploy.translate import translated
from firmware_bridge.errors import BundleError, CxrEdgeError, DeployError, DowngradeError, RolledBack
from firmware_bridge.files import write_atomically
from firmware_bridge.update import READY, REFUSED, REPORT, ROLLED_BACK, RUNNING, dump_report

_OLDER = "name a newer one; to go back: `cxr-edge rollback`"
_CHUNK_BYTES = 2**20
_WATCH_S, _KEEP, _LOCK_WAIT_S = 5.0, 3, 300.0
Say = Callable[[str], None]


def update(layout: Layout, *, say: Say) -> bool:
    """Do what is asked for by the file that the agent put down, and leave a report for it.

    Returns:
        Whether that file is gone; False where it cannot be removed (a folder of that name).

    Raises:
        DeployError: the agent's folder is none.
        OSError: not even the report can be written.
    """
    # The agent may exchange its folder for a link at any moment: from here on only the opened one counts.
    try:
        folder = open_folder(layout.agent_state / "update")
    except OSError as caught:
        raise DeployError(
            "the agent's update folder cannot be used",
            expected="a folder of its own",
            came="a link" if caught.errno in (errno.ELOOP, errno.ENOTDIR) else str(caught),
            do="remove it on the device: the agent makes it again",
        ) from caught
    where = Path(f"/proc/self/fd/{folder}")
    bundle_id, state, taken = "", RUNNING, None
    error: CxrEdgeError | None = None
    try:
        taken = _identity(where / READY)
        bundle_id = _update(layout, where / READY, say=say)
    except (CxrEdgeError, OSError) as caught:
        # A full disk is told as well: the agent does not ask for the same bundle twice.
        error = caught if isinstance(caught, CxrEdgeError) else translated(caught)
        state = ROLLED_BACK if isinstance(caught, RolledBack) else REFUSED
    finally:
        if _identity(where / READY) == taken:  # another one may have arrived meanwhile: its turn comes next
            with contextlib.suppress(OSError):  # a folder of that name: the unit's limit of starts ends that
                (where / READY).unlink(missing_ok=True)
    gone = taken is None or _identity(where / READY) != taken
    try:
        report = dump_report(state, bundle=bundle_id, error=error)
        write_atomically(where / REPORT, report, mode=0o644)
    finally:
        os.close(folder)
    say(f"{state}{f': {error.what}: {error.came}' if error else ''}")
    return gone


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _update(layout: Layout, ready: Path, *, say: Say) -> str:
    with settled_and_locked(layout, wait_s=_LOCK_WAIT_S):
        id = layout.linked_id(layout.current)
        if id is None:
            raise DeployError(
                "nothing runs here that could be updated",
                expected="a release",
                came="none",
                do="deploy with `cxr-edge deploy` first",
            )
        description = read_release(layout, id)
        say("taking the bundle")
        listing, file = _adopt(layout, ready)
        layer = layer_hash(listing)
        try:
            wanted = _wanted(layout, description, layer, file)
            if wanted.id == id:
                return str(wanted.bundle["id"])
            write_release(layout, wanted)
            say("proving it with the golden X-rays")
            prove(layout, wanted)
            order(layout, wanted.id, watch_s=_WATCH_S, keep=_KEEP, reason="desired state")
        except BaseException:
            forget_unused(layout, layer)  # a bundle that is refused stays no longer than that
            raise
    settle(layout, wanted.id, say=say)
    return str(wanted.bundle["id"])


def _wanted(layout: Layout, running: Description, layer: str, file: Path) -> Description:
    """The release that runs, with that bundle and the keys of today.

    Raises:
        BundleError: it is damaged, or nobody who is trusted signed it; DowngradeError: it is older.
    """
    today = with_todays_keys(layout, running)
    with open_bundle(file, trusted=todays_keys(layout)) as bundle:
        ref = {"name": bundle.manifest.name, "id": bundle.id, "created": bundle.manifest.created}
    forbid_downgrade(layout, ref, do=_OLDER)
    _forbid_older_than_running(running.bundle, ref)
    return replace(today, layers={**today.layers, BUNDLE: layer}, bundle=ref)


def _forbid_older_than_running(running: Mapping[str, str], ref: Mapping[str, str]) -> None:
    """The broker chooses which bundle: it must not be able to bring up an old one of another name, signed long ago.

    Raises:
        DowngradeError: it is older than the one that runs.
    """
    if ref["name"] != running["name"] and ref["created"] < running["created"]:
        raise DowngradeError(
            f"bundle '{ref['name']}' is older than '{running['name']}', which runs",
            expected=f"one made {running['created']} or later",
            came=f"made {ref['created']}",
            do=_OLDER,
        )


def _adopt(layout: Layout, ready: Path) -> tuple[dict[str, Entry], Path]:
    """Copy the file to where the agent cannot change it any more; then only the copy counts."""
    copy = layout.base / ".update.cxr"
    try:
        handle = open_regular(ready)
        with os.fdopen(handle, "rb") as source, copy.open("wb") as target:
            if os.fstat(handle).st_size > MAX_BUNDLE_BYTES:
                raise _no_bundle("a larger one")
            _copy(source, target)
        name = Path(BUNDLE_FILE).name
        listing = {name: Entry(hash_file(copy), copy.stat().st_size)}
        hash = layer_hash(listing)
        if prepare(layout, dump_listing(listing)):
            with copy.open("rb") as content:
                place(layout, hash, name, content)
        commit(layout, hash)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EINVAL, errno.ENXIO):
            raise _no_bundle("a link, a pipe or a device") from error
        raise
    finally:
        copy.unlink(missing_ok=True)
    return listing, layout.layer(hash) / name


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    """Copy a file that may grow meanwhile.

    Raises:
        BundleError: it grew beyond what a bundle may have.
    """
    left = MAX_BUNDLE_BYTES
    while chunk := source.read(_CHUNK_BYTES):
        left -= len(chunk)
        if left < 0:
            raise _no_bundle("one that grows")
        target.write(chunk)


def _no_bundle(came: str) -> BundleError:
    return BundleError(
        "what was put down is no bundle", expected="a file of at most 2 GiB", came=came, do="send it again"
    )
