"""Whose a signed folder is: by the keys that the device trusts today; the first time, by the one that it is told."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from firmware_bridge.deploy.answer import checked_error
from firmware_bridge.deploy.folder import Folder, damaged, read_folder
from firmware_bridge.deploy.install import PYTHON
from firmware_bridge.deploy.keys import forbid_unrevoking, todays_keys
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.release import APP, SITE, TRUSTED_KEYS
from firmware_bridge.errors import CxrEdgeError, SignatureError
from firmware_bridge.trust import TrustedKey, parse_trusted_keys

_VERIFY_S = 120.0


def trusted_key(layout: Layout, folder: Folder) -> TrustedKey:
    """The key, trusted today, that signed a folder.

    Raises:
        SignatureError: nobody did, or the folder is from before a key was revoked here.
    """
    key = folder.require_trust(todays_keys(layout))
    forbid_unrevoking(layout, _keys_of(folder))
    return key


def chosen_key(folder: Folder, trust: str) -> TrustedKey:
    """The key that a first installation is told to trust.

    Raises:
        SignatureError: none is named, or it is not among those of the folder.
    """
    keys = _keys_of(folder)
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


def verify_by_itself(layout: Layout, folder: Folder, trust: str) -> str:
    """Verify with the folder's own cryptography library, as on a first installation there is no other; who signed it.

    Raises:
        SignatureError: nobody that `trust` names, or nobody can tell.
    """
    layers = folder.description.layers
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "PYTHONPATH": f"{layout.layer(layers[APP])}:{layout.layer(layers[SITE])}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [PYTHON, "-m", "firmware_bridge.deploy", "verify", str(folder.path), trust]
    command.append(hashlib.sha256(folder.raw).hexdigest())
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=_VERIFY_S,
            check=False,
        )
        error = json.loads(done.stdout.splitlines()[-1])["error"]
    except subprocess.TimeoutExpired as late:
        raise _unverified(trust, f"no answer within {_VERIFY_S:.0f} s") from late
    except (IndexError, ValueError, LookupError, TypeError, RecursionError) as none:
        raise _unverified(trust, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]) from none
    if error is not None:
        told = checked_error(error)
        raise SignatureError(f"the folder is not trusted: {told.pop('what')}", **told)
    return chosen_key(folder, trust).name


def _unverified(trust: str, came: str) -> SignatureError:
    return SignatureError(
        "the folder's signature cannot be checked",
        expected=f"a word on a signature by key {trust}, from the code in the folder",
        came=came[:300],
        do="do not use this folder; write it again with `cxr-edge deploy --to-usb`",
    )


def verify_folder(path: Path, trust: str, sha256: str) -> dict[str, Any]:
    """Whether the key `trust` signed the folder whose list of contents has that hash.

    Returns:
        "error": why not, in four parts; None where it did.
    """
    try:
        folder = read_folder(path)
        if hashlib.sha256(folder.raw).hexdigest() != sha256:
            raise damaged(path, "the same folder from the beginning to the end", "another one")
        folder.require_trust((chosen_key(folder, trust),))
    except CxrEdgeError as error:
        return {"error": error.told()}
    return {"error": None}


def _keys_of(folder: Folder) -> tuple[TrustedKey, ...]:
    return parse_trusted_keys(folder.description.trusted_keys.encode(), folder.path / TRUSTED_KEYS)
