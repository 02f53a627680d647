"""What a layer's files looked like when every byte of them was last read: an unchanged run need not read them again.

Size, time of change and inode tell everything but a worn card that changes bytes by itself; so whatever is about to
build on a layer reads all of it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from firmware_bridge.deploy.layout import Layout
from firmware_bridge.files import write_atomically


def remember(layout: Layout, hash: str, names: Collection[str]) -> None:
    """Write down how the files of a layer look now, right after every byte was found right.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    looks = json.dumps(_looks(layout.layer(hash), names), separators=(",", ":"))
    write_atomically(_file(layout, hash), looks.encode(), mode=0o644)


def looks_as_before(layout: Layout, hash: str, names: Collection[str]) -> bool:
    """Whether all files of a layer look as they did then; False where nobody wrote that down."""
    try:
        return bool(json.loads(_file(layout, hash).read_bytes()) == _looks(layout.layer(hash), names))
    except (OSError, ValueError):
        return False


def _file(layout: Layout, hash: str) -> Path:
    return layout.layers / f".{hash}.seen"


def _looks(folder: Path, names: Collection[str]) -> list[list[int]]:
    """[size in bytes, time of change in ns, inode, kind and mode] of each file, in the order of the names."""
    states = [(folder / name).lstat() for name in sorted(names)]
    return [[one.st_size, one.st_mtime_ns, one.st_ino, one.st_mode] for one in states]
