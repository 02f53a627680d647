"""Writing the folder that a device without a network is installed from; `firmware_bridge.deploy.folder` reads it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from firmware_bridge.deploy.folder import CODE, CONTENT, KIND, SCHEMA, SCRIPT, SIGNATURE
from firmware_bridge.deploy.listing import hash_file
from firmware_bridge.deploy.release import SITE
from firmware_bridge.errors import ConfigError, SignatureError
from firmware_bridge.result import iso_utc
from firmware_bridge.signing import FOLDER_CONTEXT, dump_signatures, require_signature, sign
from firmware_bridge.trust import TrustedKey, parse_trusted_keys
from toolkit.deploy.code import stick_code
from toolkit.deploy.layer import archive
from toolkit.deploy.settings import Prepared
from toolkit.deploy.targets import Target, load_targets
from toolkit.deploy.wanted import Parcel, Wanted, wanted_for
from toolkit.files import storing, write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# What this writes into `layers`, and what a kill leaves of it: on a stick there may be another's folder of that name.
_LAYER = re.compile(r"[0-9a-f]{64}\.(json|tar\.gz)|\.cxr-[0-9a-f]{24}-\d+\.part")
_SCRIPT = """\
#!/bin/sh
# Installs cxr-edge from this folder:  sudo sh install [--trust KEY] [--allow-downgrade] [--check]
# On a device that has it already, the installed code checks this folder before anything in here is run.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ -x /usr/bin/python3 ] || { echo "error: /usr/bin/python3 is not there: apt-get install python3" >&2; exit 10; }
[ "$(id -u)" = 0 ] || { echo "error: only root can install: sudo sh $0 $*" >&2; exit 10; }
export PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1
if [ -d /opt/cxr-edge/current/app ]; then
  export PYTHONPATH=/opt/cxr-edge/current/app:/opt/cxr-edge/current/site
else
  export PYTHONPATH="$here/cxr-edge.zip"
fi
cd /
exec /usr/bin/python3 -m firmware_bridge.deploy install "$here" "$@"
"""


def exact_target(name: str, python: str) -> tuple[Target, str]:
    """(target, "3.11"): what a device that nobody can ask will be.

    Raises:
        ConfigError: the name leaves it open.
    """
    needs, targets = load_targets()
    target = next((one for one in targets if one.name == name), None)
    if target is None:
        raise ConfigError(
            "the kind of device is not said",
            expected="--target with one of " + ", ".join(one.name for one in targets),
            came=name or "nothing",
            do="a folder is written before anybody sees the device: say exactly what it is",
        )
    version = target.python or python
    if version not in needs.python or (python and python != version):
        raise ConfigError(
            f"the device's Python is not said or does not fit {target.name}",
            expected=f"--python with {target.python or ' or '.join(needs.python)}",
            came=python or "nothing",
            do="`python3 --version` on the device tells",
        )
    return target, version


def require_signer(key: Ed25519PrivateKey, parcel: Parcel) -> TrustedKey:
    """The trusted key whose private half is `key`: the device asks for one of those, so nobody else's will do.

    Raises:
        SignatureError: it is none of them, or revoked.
    """
    keys = parse_trusted_keys(parcel.trusted_keys.encode(), Path("--trusted-keys"))
    now = iso_utc(datetime.now(timezone.utc))
    try:
        # The device's own check, over nothing.
        return require_signature(
            b"", [sign(b"", key, context=FOLDER_CONTEXT)], keys, context=FOLDER_CONTEXT, created=now
        )
    except SignatureError as error:
        raise SignatureError(
            "no device would take a folder that --key signs",
            expected=error.expected,
            came=error.came,
            do="give the private half of one of --trusted-keys, or add the key to that file",
        ) from error


def write_folder(
    out: Path,
    parcel: Parcel,
    prepared: Prepared,
    *,
    target: Target,
    python: str,
    key: Ed25519PrivateKey,
    say: Callable[[str], None],
) -> TrustedKey:
    """Write a signed folder. `out` may be a stick's root; files of ours in it are replaced, others stay.

    Args:
        out: the folder.
        parcel: the bundle.
        prepared: watched folder and settings of the device. Its secrets stay here: a stick is no place for them.
        target: the kind of device.
        python: its Python, "3.11".
        key: signs the folder.
        say: called with each step.

    Returns:
        The trusted key that signed it.

    Raises:
        SignatureError: no device would trust the key.
        DeployError: no packages for this kind of device.
        ResourceError: the folder cannot be written.
    """
    signer = require_signer(key, parcel)
    say(f"packages for {target.name}, Python {python}")
    wanted = wanted_for(prepared, target, parcel, python=python, cpus=max(target.threads), tensorrt="any", say=say)
    files = _write_layers(out, wanted, say)
    write_atomically(out / CODE, stick_code(wanted.layers[SITE]))
    write_atomically(out / SCRIPT, _SCRIPT)
    files.update({name: hash_file(out / name) for name in (CODE, SCRIPT)})
    content = {
        "schema": SCHEMA,
        "kind": KIND,
        "created": iso_utc(datetime.now(timezone.utc)),
        "needs": {"machine": target.machine, "python": python, "glibc": target.glibc},
        "compile": [kind for kind, layer in wanted.layers.items() if layer.python],
        "release": wanted.description.to_json(),
        "files": files,
    }
    raw = json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True).encode()
    write_atomically(out / CONTENT, raw)
    write_atomically(out / SIGNATURE, dump_signatures([sign(raw, key, context=FOLDER_CONTEXT)]))
    return signer


def _write_layers(out: Path, wanted: Wanted, say: Callable[[str], None]) -> dict[str, str]:
    """name -> SHA-256 of each file that was written."""
    layers = out / "layers"
    with storing(out):
        layers.mkdir(parents=True, exist_ok=True)
        for left in layers.iterdir():
            if _LAYER.fullmatch(left.name):
                left.unlink()
    files: dict[str, str] = {}
    for kind, layer in wanted.layers.items():
        say(f"{kind}: {layer.size_bytes / 1e6:.1f} MB")
        write_atomically(layers / f"{layer.hash}.json", layer.raw_listing)
        packed = archive(layer, layer.listing)
        with storing(layers):
            shutil.copyfile(packed, layers / f"{layer.hash}.tar.gz")
        for name in (f"layers/{layer.hash}.json", f"layers/{layer.hash}.tar.gz"):
            files[name] = hash_file(out / name)
    return files
