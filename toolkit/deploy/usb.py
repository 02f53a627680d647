"""Writing the folder that a device without a network is installed from; `firmware_bridge.deploy.folder` reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_bridge.deploy.folder import CODE, CONTENT, KIND, SCHEMA, SCRIPT, SIGNATURE
from firmware_bridge.deploy.layers import hash_file
from firmware_bridge.errors import ConfigError
from firmware_bridge.result import iso_utc
from firmware_bridge.signing import FOLDER_CONTEXT, dump_signatures, sign
from toolkit.deploy.code import device_code
from toolkit.deploy.inventory import Host
from toolkit.deploy.layer import archive
from toolkit.deploy.targets import Target, load_targets
from toolkit.deploy.wanted import Parcel, wanted_for
from toolkit.files import storing, write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_SCRIPT = """\
#!/bin/sh
# Installs cxr-edge from this folder:  sudo sh install [--trust KEY] [--allow-downgrade]
# On a device that has it already, the installed code checks this folder before anything in here is run.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ -x /usr/bin/python3 ] || { echo "error: /usr/bin/python3 is not there: apt-get install python3" >&2; exit 10; }
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


def write_folder(
    out: Path,
    parcel: Parcel,
    host: Host,
    *,
    target: Target,
    python: str,
    key: Ed25519PrivateKey,
    config: Mapping[str, Any],
    say: Callable[[str], None],
) -> Path:
    """Write a signed folder. `out` may be a stick's root; files of ours in it are replaced, others stay.

    Args:
        out: the folder.
        parcel: the bundle.
        host: watched folder and config of the device; its secrets are refused, a stick is no place for them.
        target: the kind of device.
        python: its Python, "3.11".
        key: signs the folder.
        config: tables of the agent's file.
        say: called with each step.

    Raises:
        ConfigError: a setting that the agent does not know, or secrets.
        DeployError: no packages for this kind of device.
        ResourceError: the folder cannot be written.
    """
    if host.secrets:
        raise ConfigError(
            "secrets do not go onto a stick",
            expected="no secrets",
            came=", ".join(host.secrets),
            do="put them into /etc/cxr-edge/secrets on the device by hand (mode 0600)",
        )
    say(f"packages for {target.name}, Python {python}")
    wanted = wanted_for(host, target, parcel, python=python, cpus=max(target.threads), tensorrt="any", config=config)
    layers = out / "layers"
    with storing(out):
        layers.mkdir(parents=True, exist_ok=True)
        for left in layers.iterdir():
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
    write_atomically(out / CODE, device_code())
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
    return out
