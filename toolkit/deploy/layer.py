"""Layers as the workstation has them: where each file's bytes are, and the archive that carries them."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tarfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from firmware_bridge.deploy.listing import Entry, dump_listing, layer_hash
from toolkit.files import replacing

# Speed over size: the fastest level halves the packages, which is what a slow network asks for.
_LEVEL = 1
_KEPT_DAYS = 30


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        listing: what is in it.
        sources: where the bytes of each file are.
        python: whether the device should compile it.
    """

    listing: dict[str, Entry]
    sources: Mapping[str, Path | bytes]
    python: bool = False

    @cached_property
    def hash(self) -> str:
        """Its name."""
        return layer_hash(self.listing)

    @cached_property
    def raw_listing(self) -> bytes:
        """What its name is the hash of."""
        return dump_listing(self.listing)

    def read(self, name: str) -> bytes:
        """The bytes of one of its files."""
        source = self.sources[name]
        return source if isinstance(source, bytes) else source.read_bytes()

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(entry.size_bytes for entry in self.listing.values())


def cache_folder() -> Path:
    """Where packages and archives are kept between deployments. May be removed at any time."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "cxr-edge" / "deploy"


def unique(layer: Layer) -> list[str]:
    """The files that an empty device is sent: of equal ones the first."""
    first = {entry.sha256: name for name, entry in reversed(layer.listing.items())}
    return sorted(first.values())


def archive(layer: Layer, names: Collection[str]) -> Path:
    """A compressed tar with those files, made once and kept: twenty hosts get the same bytes.

    Raises:
        ResourceError: the disk is full.
    """
    part = layer_hash({name: layer.listing[name] for name in names})
    path = cache_folder() / "archives" / f"{layer.hash[:16]}-{part[:32]}.tar.gz"
    try:
        os.utime(path)  # in use, so it is not an old one
    except FileNotFoundError:
        _forget_old(path.parent)
        with replacing(path) as growing, growing.open("wb") as file:
            _write(layer, sorted(names), file)
    return path


def _forget_old(folder: Path) -> None:
    """Every bundle and every version of the code leaves an archive; an old one is made again when it is needed."""
    oldest_s = time.time() - _KEPT_DAYS * 86_400
    for path in folder.glob("*.tar.gz"):
        with contextlib.suppress(FileNotFoundError):  # another deployment tidies up as well
            if path.stat().st_mtime < oldest_s:
                path.unlink()


def _write(layer: Layer, names: list[str], file: IO[bytes]) -> None:
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = layer.listing[name].size_bytes
            source = layer.sources[name]
            with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as content:
                tar.addfile(member, content)


def chunks(path: Path, size_bytes: int = 2**18) -> Iterator[bytes]:
    """The bytes of a file, piece by piece."""
    with path.open("rb") as file:
        while chunk := file.read(size_bytes):
            yield chunk
