"""Layers: folders of files that never change, named by the hash of their listing. What a release shares with others.

A layer grows in `.HASH.part`, where a later run finds what an interrupted one left; it gets its name only when every
byte of it has been read back from the disk and is right.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from firmware_bridge.deploy.layout import Layout, is_id
from firmware_bridge.deploy.listing import CHUNK_BYTES, Entry, Listing, hash_file, parse_listing, unusable, walk
from firmware_bridge.deploy.seen import looks_as_before, remember
from firmware_bridge.errors import DeployError
from firmware_bridge.files import sync_folder, write_atomically


def state_of_layer(layout: Layout, hash: str, *, every_byte: bool = True) -> str:
    """ "intact", "damaged" or "absent". Without `every_byte`, what looks as when it was read is not read again."""
    folder, listed = layout.layer(hash), layout.layers / f"{hash}.json"
    if not folder.is_dir() or not listed.is_file():
        return "absent"
    raw = listed.read_bytes()
    if hashlib.sha256(raw).hexdigest() != hash:
        return "damaged"
    listing = parse_listing(raw)
    if _locked_out(folder, listing):
        return "damaged"
    if not every_byte and looks_as_before(layout, hash, listing):
        return "intact"
    return "damaged" if _wrong_files(folder, listing) else "intact"


def require_intact(layout: Layout, hashes: Iterable[str]) -> None:
    """Read every byte of layers that nothing was sent for.

    Raises:
        DeployError: one is damaged or absent.
    """
    for hash in hashes:
        if (state := state_of_layer(layout, hash)) != "intact":
            raise DeployError(
                "the release is not what it was",
                expected=f"layer {hash[:16]} as it was sent, to the last byte",
                came=f"it is {state}: a worn disk, or somebody changed it",
                do="deploy that bundle with --allow-downgrade: what is damaged is sent again",
            )


def known_content(layout: Layout) -> dict[str, Path]:
    """SHA-256 to a file that should have it, over all layers that are there, finished or not."""
    found: dict[str, Path] = {}
    for listed in layout.layers.glob("*.json"):
        for folder in (layout.layers / listed.stem, _part(layout, listed.stem)):
            if folder.is_dir() and (entries := _readable(listed)):
                found.update((one.sha256, folder / name) for name, one in entries.items())
    return found


def _readable(listed: Path) -> Listing:
    """A listing; empty where it is damaged: that layer has nothing to offer."""
    with contextlib.suppress(OSError, DeployError):
        return parse_listing(listed.read_bytes())
    return {}


def prepare(layout: Layout, raw: bytes) -> list[str]:
    """Make room for a layer and put into it what the device has already, by hard links to files that are right.

    Args:
        layout: the device.
        raw: the layer's listing.

    Returns:
        The files that have to be sent; of equal ones the first.

    Raises:
        DeployError: a listing that is none.
    """
    listing, hash = parse_listing(raw), hashlib.sha256(raw).hexdigest()
    there = known_content(layout)
    folder = _workplace(layout, hash)
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    write_atomically(layout.layers / f"{hash}.json", raw, mode=0o644)
    missing: dict[str, str] = {}
    for name in _wrong_files(folder, listing):
        source = there.get(listing[name].sha256)
        if source is None or not _link(source, folder / name, listing[name]):
            missing.setdefault(listing[name].sha256, name)
    return list(missing.values())


def _link(source: Path, target: Path, entry: Entry) -> bool:
    """Link a file that is as it should be; False where it is not."""
    if source == target or not _is_right(source, entry):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.link")
    part.unlink(missing_ok=True)
    os.link(source, part)
    part.replace(target)
    return True


def receive(
    layout: Layout, hash: str, stream: IO[bytes], *, progress: Callable[[int], None] = lambda _bytes: None
) -> None:
    """Take files out of a tar stream. Each must stand in the listing, and is hashed while it is written.

    Raises:
        DeployError: a file that is not listed, or other bytes than listed: something went wrong on the way.
        OSError: the disk is full or cannot be written.
    """
    listing = parse_listing((layout.layers / f"{hash}.json").read_bytes())
    folder = _workplace(layout, hash)
    done_bytes = 0
    try:
        with tarfile.open(fileobj=stream, mode="r|gz") as archive:
            for member in archive:
                entry = listing.get(member.name)
                fits = entry is not None and member.isreg() and member.size == entry.size_bytes
                content = archive.extractfile(member) if fits else None
                if content is None or entry is None:
                    raise unusable("files of the layer and nothing else", repr(member.name)[:80])
                _write(folder / member.name, content, entry)
                done_bytes += entry.size_bytes
                progress(done_bytes)
    except (tarfile.TarError, EOFError) as error:
        raise _corrupted("a whole archive", str(error)) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            # What runs needs the room for its journal more than the next run needs what has arrived.
            shutil.rmtree(_part(layout, hash), ignore_errors=True)
        raise


def place(layout: Layout, hash: str, name: str, content: IO[bytes]) -> None:
    """Put one file into a layer, from a stream of its bytes.

    Raises:
        DeployError: other bytes than listed.
        OSError: see `receive`.
    """
    entry = parse_listing((layout.layers / f"{hash}.json").read_bytes())[name]
    _write(_workplace(layout, hash) / name, content, entry)


def _write(path: Path, content: Any, entry: Entry) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    digest = hashlib.sha256()
    with part.open("xb") as file:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != entry.sha256:
        part.unlink()
        raise _corrupted(f"{path.name} with SHA-256 {entry.sha256}", digest.hexdigest())
    part.chmod(0o755 if entry.executable else 0o644)
    part.replace(path)


def commit(layout: Layout, hash: str, *, finish: Callable[[Path, Path], None] = lambda _part, _whole: None) -> None:
    """Give a layer its name, once every byte of it is on the disk and right. Does nothing where it has it already.

    Args:
        layout: the device.
        hash: the layer.
        finish: called before, with the folder as it is and as it will be called.

    Raises:
        DeployError: a file is missing or wrong.
        OSError: see `receive`.
    """
    listing = parse_listing((layout.layers / f"{hash}.json").read_bytes())
    folder, whole = _workplace(layout, hash), layout.layer(hash)
    _link_equals(folder, listing)
    os.sync()  # thousands of files: one sync for all of them
    wrong = _wrong_files(folder, listing)
    if wrong:
        raise _corrupted(f"all {len(listing)} files of the layer", f"{len(wrong)} missing or wrong ({wrong[0]}, ...)")
    for path in list(walk(folder, caches=False)):
        if path.relative_to(folder).as_posix() not in listing:
            path.unlink()  # half a file of an interrupted run
    finish(folder, whole)
    _let_in(folder)
    if folder != whole:
        os.sync()
        folder.rename(whole)
        sync_folder(layout.layers)
    remember(layout, hash, listing)


def _link_equals(folder: Path, listing: Listing) -> None:
    """Files with the same bytes came once (packages ship a library under three names): link the others."""
    first: dict[str, Path] = {}
    for name, entry in listing.items():
        path = folder / name
        if path.is_file():
            first.setdefault(entry.sha256, path)
    for name, entry in listing.items():
        source = first.get(entry.sha256)
        if source is not None and not (folder / name).is_file():
            _link(source, folder / name, entry)


def remove_layers(layout: Layout, *, keep: set[str]) -> list[str]:
    """Remove every layer but those, finished or not."""
    removed = []
    for path in layout.layers.glob("*"):
        hash = path.name.removesuffix(".json").removesuffix(".part").removesuffix(".seen").lstrip(".")
        if hash in keep:
            continue
        if path.is_dir():
            shutil.rmtree(path)
            removed.append(hash)
        else:
            path.unlink()
    return removed


def _locked_out(folder: Path, listing: Listing) -> list[Path]:
    """What only root can read, as a umask of 077 leaves it: no service could start from it."""
    folders = {""}
    for name in listing:
        above = name.rpartition("/")[0]
        while above not in folders:
            folders.add(above)
            above = above.rpartition("/")[0]
    asked = [*((folder / name, 0o755) for name in folders), *((folder / name, 0o444) for name in listing)]
    found = []
    for path, bits in asked:
        with contextlib.suppress(OSError):
            if path.lstat().st_mode & bits != bits:
                found.append(path)
    return found


def _let_in(folder: Path) -> None:
    """Let everybody read a layer, what was compiled in it too."""
    for base, _, files in os.walk(folder):
        Path(base).chmod(0o755)
        for path in (Path(base, name) for name in files):
            mode = path.lstat().st_mode & 0o777
            if mode & 0o444 != 0o444 and not path.is_symlink():
                path.chmod(mode | 0o444)


def _wrong_files(folder: Path, listing: Listing) -> list[str]:
    return [name for name, entry in listing.items() if not _is_right(folder / name, entry)]


def _is_right(path: Path, entry: Entry) -> bool:
    try:
        status = path.lstat()
        # 0o170000: the file's kind; a link in the place of a file is never right.
        regular = (status.st_mode & 0o170000) == 0o100000
        return regular and status.st_size == entry.size_bytes and hash_file(path) == entry.sha256
    except OSError:
        return False


def _part(layout: Layout, hash: str) -> Path:
    return layout.layers / f".{hash}.part"


def _workplace(layout: Layout, hash: str) -> Path:
    """Where files of a layer are put: into itself, where it is there and a file of it is damaged."""
    if not is_id(hash):
        raise unusable("a hash", repr(hash)[:80])
    return layout.layer(hash) if layout.layer(hash).is_dir() else _part(layout, hash)


def _corrupted(expected: str, came: str) -> DeployError:
    return DeployError(
        "what arrived is not what was sent",
        expected=expected,
        came=came,
        do="deploy again: only what is missing is sent; if it happens again, check the device's disk and the network",
    )
