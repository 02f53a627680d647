"""What is in a layer: the name, hash and size of each of its files. The hash of that list names the layer."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from firmware_bridge.errors import DeployError

CHUNK_BYTES = 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")
# What Python compiled on the device by itself; where it came with the layer it is listed, and verified like the rest.
_CACHE = "__pycache__"
_MAX_FILES = 50_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a layer: hash, size, and whether it may be executed."""

    sha256: str
    size_bytes: int
    executable: bool = False


Listing = dict[str, Entry]


def dump_listing(listing: Listing) -> bytes:
    """The bytes whose hash names the layer."""
    content = {name: [one.sha256, one.size_bytes, one.executable] for name, one in listing.items()}
    return json.dumps(content, ensure_ascii=False, sort_keys=True, indent=0).encode()


def parse_listing(raw: bytes) -> dict[str, Entry]:
    """Read a listing.

    Raises:
        DeployError: it is no listing, or a name in it leads out of the layer.
    """
    try:
        content = json.loads(raw.decode("utf-8"))
        "".join(content).encode()  # half a surrogate pair can be no file's name
        listing = {name: Entry(str(one[0]), int(one[1]), bool(one[2])) for name, one in content.items()}
    except (ValueError, AttributeError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise unusable("a JSON object of files", str(error)) from error
    if len(listing) > _MAX_FILES:
        raise unusable(f"at most {_MAX_FILES} files", str(len(listing)))
    for name, one in listing.items():
        parts = name.split("/")
        if name.startswith("/") or "\0" in name or any(part in ("", ".", "..") for part in parts):
            raise unusable("relative names without '..'", repr(name)[:80])
        if not _SHA256.fullmatch(one.sha256) or one.size_bytes < 0:
            raise unusable("64 hex digits and a size of 0 or more", f"{one.sha256[:80]!r}, {one.size_bytes}")
    return listing


def layer_hash(listing: Listing) -> str:
    """The layer's name."""
    return hashlib.sha256(dump_listing(listing)).hexdigest()


def list_folder(folder: Path) -> dict[str, Entry]:
    """The listing of what lies in `folder`.

    Raises:
        DeployError: there is something else than plain files and folders in it.
    """
    listing = {}
    for path in walk(folder, caches=True):
        if path.is_symlink() or not path.is_file():
            raise unusable("plain files", f"{path}, which is a link or a device")
        entry = Entry(hash_file(path), path.stat().st_size, bool(path.stat().st_mode & 0o100))
        listing[path.relative_to(folder).as_posix()] = entry
    return dict(sorted(listing.items()))


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hash_stream(file)


def hash_stream(file: IO[bytes]) -> str:
    """SHA-256 of what is left in it."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def walk(folder: Path, *, caches: bool) -> Iterator[Path]:
    """Every file below a folder, in order; links to folders too. Without `caches`, not what Python compiled there."""
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if caches or name != _CACHE)
        yield from (Path(base, name) for name in sorted(files))
        yield from (link for name in folders if (link := Path(base, name)).is_symlink())


def unusable(expected: str, came: str) -> DeployError:
    """The error for what is no part of a layer."""
    return DeployError(
        "what was sent cannot be used", expected=expected, came=came, do="use the same version of cxr-edge at both ends"
    )
