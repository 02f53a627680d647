"""A deployment without a network: a signed folder (a USB stick). See `folder_trust`, `folder_install`.

install             sh install [--trust KEY] [--allow-downgrade] [--check], as root
cxr-edge.zip        this code
folder.json         the release, what it needs, and the SHA-256 of every other file
folder.json.sig     signatures over folder.json
layers/HASH.json    what is in a layer
layers/HASH.tar.gz  the layer
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.deploy.foreign import open_folder, open_regular
from firmware_bridge.deploy.layout import is_id
from firmware_bridge.deploy.listing import hash_stream
from firmware_bridge.deploy.release import Description, parse_description
from firmware_bridge.errors import DeployError, SignatureError
from firmware_bridge.signing import FOLDER_CONTEXT, MAX_SIGNATURE_BYTES, parse_signatures, require_signature
from firmware_bridge.trust import TrustedKey

SCHEMA = 1
KIND = "cxr-edge-folder"
CONTENT, SIGNATURE, CODE, SCRIPT = "folder.json", "folder.json.sig", "cxr-edge.zip", "install"
MOST_LIST_BYTES = 16_000_000


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
        files: name -> SHA-256, of every file but this list.
    """

    path: Path
    raw: bytes
    description: Description
    needs: Mapping[str, str]
    compile: tuple[str, ...]
    created: str
    files: Mapping[str, str]

    def require_trust(self, trusted: tuple[TrustedKey, ...]) -> TrustedKey:
        """The key that signed it.

        Raises:
            SignatureError: nobody who is trusted.
        """
        try:
            raw = read_file(self.path, SIGNATURE, most_bytes=MAX_SIGNATURE_BYTES)
        except OSError as error:
            raise SignatureError(
                f"{self.path} is not signed",
                expected=f"{SIGNATURE} in it",
                came=error.strerror or str(error),
                do="write it again with `cxr-edge deploy --to-usb`",
            ) from error
        signatures = parse_signatures(raw)
        return require_signature(self.raw, signatures, trusted, context=FOLDER_CONTEXT, created=self.created)


def read_folder(path: Path) -> Folder:
    """Read what is signed, the list of what is in a folder. `check_files` reads the rest: whose it is comes first.

    Raises:
        DeployError: it is no such folder.
    """
    try:
        raw = read_file(path, CONTENT, most_bytes=MOST_LIST_BYTES)
        content = json.loads(raw)
        if (content["schema"], content["kind"]) != (SCHEMA, KIND):
            raise ValueError("another schema or kind")
        files = {str(name): str(hash) for name, hash in content["files"].items()}
        folder = Folder(
            path,
            raw,
            parse_description(content["release"]),
            {name: str(content["needs"][name]) for name in ("machine", "python", "glibc")},
            tuple(content["compile"]),
            str(content["created"]),
            files,
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, f"a folder written by `cxr-edge deploy --to-usb` ({CONTENT})", str(error)) from error
    for layer in folder.description.layers.values():
        for name in (f"layers/{layer}.json", f"layers/{layer}.tar.gz"):
            if name not in files:
                raise damaged(path, f"{name} listed in {CONTENT}", "it is not")
    return folder


def check_files(folder: Folder, *, there: Callable[[str], bool] = lambda _layer: False) -> None:
    """Read every file of a folder.

    Args:
        folder: read.
        there: whether the device has a layer, so that its files need not be in the folder.

    Raises:
        DeployError: a file is missing or changed.
    """
    for name, hash in folder.files.items():
        layer = Path(name).name.partition(".")[0] if name.startswith("layers/") else ""
        if not (is_id(layer) and not os.path.lexists(folder.path / name) and there(layer)):
            _check_file(folder.path, name, hash)


def _check_file(path: Path, name: str, hash: str) -> None:
    try:
        with os.fdopen(open_file(path, name), "rb") as file:
            came = hash_stream(file)
    except OSError as error:
        raise damaged(path, f"{_shown(name)}, a plain file", error.strerror or str(error)) from error
    if came != hash:
        raise damaged(path, f"{_shown(name)} with SHA-256 {hash}", "another file")


def _shown(name: str) -> str:
    """A name that somebody else chose, for a terminal."""
    return name if name.isprintable() and len(name) <= 120 else ascii(name)[:120]


def open_file(path: Path, name: str) -> int:
    """Open a file of a folder, which whoever has the stick may have exchanged for a link or a pipe.

    Raises:
        OSError: it is no plain file, or not in the folder.
    """
    parts = name.split("/")
    if len(parts) > 2 or any(part in ("", ".", "..") for part in parts):
        raise OSError(errno.EINVAL, "not a plain name", name[:80])
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if len(parts) == 1:
            return open_regular(name, folder=handle)
        inner = open_folder(parts[0], folder=handle)
        try:
            return open_regular(parts[1], folder=inner)
        finally:
            os.close(inner)
    finally:
        os.close(handle)


def read_file(path: Path, name: str, *, most_bytes: int) -> bytes:
    """The bytes of a small file of a folder.

    Raises:
        OSError: see `open_file`; or it is larger.
    """
    with os.fdopen(open_file(path, name), "rb") as file:
        raw = file.read(most_bytes + 1)
    if len(raw) > most_bytes:
        raise OSError(errno.EFBIG, f"more than {most_bytes} bytes", name)
    return raw


def damaged(path: Path, expected: str, came: str) -> DeployError:
    """The error for a folder that is not as it was written."""
    return DeployError(
        f"the folder {path} is damaged", expected=expected, came=came[:300], do="copy it again, or write it again"
    )
