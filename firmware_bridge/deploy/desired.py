"""The root half of an update that the agent fetched: another bundle, everything else as it is.

The agent has no rights to change what runs. It puts a file down; a systemd path unit sees it and runs this, which
trusts the file's signature and nothing else: neither the agent, nor the broker, nor the server that the file came from.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from firmware_bridge.bundle import MAX_BUNDLE_BYTES, open_bundle
from firmware_bridge.deploy.activate import order, settle, settled_and_locked
from firmware_bridge.deploy.history import forbid_downgrade
from firmware_bridge.deploy.keys import todays_keys, with_todays_keys
from firmware_bridge.deploy.layers import Entry, commit, dump_listing, hash_file, layer_hash, place, prepare
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.proving import prove
from firmware_bridge.deploy.release import BUNDLE, BUNDLE_FILE, read_release, write_release
from firmware_bridge.deploy.serve import translated
from firmware_bridge.errors import BundleError, CxrEdgeError, DeployError, DowngradeError, RolledBack
from firmware_bridge.files import write_atomically
from firmware_bridge.update import READY, REFUSED, REPORT, ROLLED_BACK, RUNNING, dump_report

_OLDER = "name a newer one; to go back: `cxr-edge rollback`"
_WATCH_S, _KEEP, _LOCK_WAIT_S = 5.0, 3, 300.0
Say = Callable[[str], None]


def update(layout: Layout, *, say: Say) -> None:
    """Do what is asked for by the file that the agent put down, and leave a report for it.

    Raises:
        OSError: not even the report can be written.
    """
    folder = layout.agent_state / "update"
    bundle_id, state = "", RUNNING
    error: CxrEdgeError | None = None
    try:
        bundle_id = _update(layout, folder / READY, say=say)
    except (CxrEdgeError, OSError) as caught:
        # A full disk is told as well: the agent does not ask for the same bundle twice.
        error = caught if isinstance(caught, CxrEdgeError) else translated(caught)
        state = ROLLED_BACK if isinstance(caught, RolledBack) else REFUSED
    finally:
        (folder / READY).unlink(missing_ok=True)
    report = dump_report(state, bundle=bundle_id, error=error)
    write_atomically(folder / REPORT, report, mode=0o644)
    say(f"{state}{f': {error.what}: {error.came}' if error else ''}")


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
        description = with_todays_keys(layout, description)
        with open_bundle(file, trusted=todays_keys(layout)) as bundle:
            ref = {"name": bundle.manifest.name, "id": bundle.id, "created": bundle.manifest.created}
        forbid_downgrade(layout, ref, do=_OLDER)
        _forbid_older_than_running(description.bundle, ref)
        wanted = replace(description, layers={**description.layers, BUNDLE: layer_hash(listing)}, bundle=ref)
        if wanted.id == id:
            return ref["id"]
        write_release(layout, wanted)
        say("proving it with the golden X-rays")
        prove(layout, wanted)
        order(layout, wanted.id, watch_s=_WATCH_S, keep=_KEEP, reason="desired state")
    settle(layout, wanted.id, say=say)
    return ref["id"]


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
        handle = os.open(ready, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as source, copy.open("wb") as target:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BUNDLE_BYTES:
                raise BundleError(
                    "what was put down is no bundle",
                    expected="a file of at most 2 GiB",
                    came="another",
                    do="send it again",
                )
            shutil.copyfileobj(source, target)
        name = Path(BUNDLE_FILE).name
        listing = {name: Entry(hash_file(copy), copy.stat().st_size)}
        hash = layer_hash(listing)
        if prepare(layout, dump_listing(listing)):
            with copy.open("rb") as content:
                place(layout, hash, name, content)
        commit(layout, hash)
    finally:
        copy.unlink(missing_ok=True)
    return listing, layout.layer(hash) / name
