"""The X-rays of a folder tree, local or behind fsspec, one at a time: never the whole list, however many there are."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_bridge.errors import InputError
from toolkit.archive.names import Item, as_text, is_searched_folder, is_xray_name, what_came, without_secrets

if TYPE_CHECKING:
    Entries = os._ScandirIterator[str]

# Each level keeps a folder open. Real archives have about six levels: year, month, day, patient, study, series.
MAX_DEPTH = 64


@dataclass(slots=True)
class Passed:
    """What a listing passed over.

    Attributes:
        files: that are no X-rays by their names, or no regular files.
        links: to folders; they are not followed, so that no loop of them can be walked.
        nameless: rows of a list without a path.
    """

    files: int = 0
    links: int = 0
    nameless: int = 0


def walk_local(root: Path, passed: Passed, *, not_into: Path | None = None) -> Iterator[Item]:
    """The X-rays below `root`, in the order of the file system; links to files are followed, links to folders not.

    Folders that cannot be read, or lie too deep, come out as items with a problem: nothing is missed silently.

    Args:
        root: absolute.
        passed: counted here.
        not_into: a folder below it that is passed over: that of the results.

    Raises:
        InputError: `root` itself cannot be read.
    """
    levels = [_opened(root)]
    try:
        while levels:
            entry = _next(levels[-1], root)
            if entry is None:
                levels.pop().close()
            elif not _is_folder(entry):
                yield from _file(entry, root, passed)
            elif entry.is_symlink():
                passed.links += 1
            elif is_searched_folder(entry.name) and Path(entry.path) != not_into:
                problem = "folders too deep" if len(levels) >= MAX_DEPTH else ""
                try:
                    if not problem:
                        levels.append(os.scandir(entry.path))
                except OSError as error:
                    problem = f"a folder that cannot be read: {error.strerror}"
                if problem:
                    yield Item(_inside(entry.path, root), entry.path, problem=problem)
    finally:
        for level in levels:
            level.close()


def _opened(root: Path) -> Entries:
    try:
        return os.scandir(root)
    except OSError as error:
        raise cannot_read(str(root), "a folder that this user may read", error.strerror or str(error)) from error


def _next(level: Entries, root: Path) -> os.DirEntry[str] | None:
    try:
        return next(level, None)
    except OSError as error:  # the disk or the share went away in the middle of a folder
        raise cannot_read(str(root), "a folder that can be listed", error.strerror or str(error)) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for one
        return False


def _file(entry: os.DirEntry[str], root: Path, passed: Passed) -> Iterator[Item]:
    try:
        # A link to nothing is an X-ray that is missing, and that should be told.
        taken = entry.is_file() or entry.is_symlink()
    except OSError:
        taken = True
    if taken and is_xray_name(entry.name):
        yield Item(_inside(entry.path, root), entry.path)
    else:
        passed.files += 1


def _inside(path: str, root: Path) -> str:
    return as_text(os.path.relpath(path, root))


def walk_remote(files: Any, root: str, passed: Passed) -> Iterator[Item]:
    """The X-rays below `root`, folder after folder; of an object store, one folder's names are held at a time.

    Args:
        files: an fsspec file system.
        root: its name there, without the protocol.
        passed: counted here.

    Raises:
        InputError: it cannot be listed.
    """
    is_page = root.startswith(("http://", "https://"))
    folders = [(root, 0)]
    while folders:
        folder, depth = folders.pop()
        for entry in _entries(files, folder):
            address = str(entry["name"])
            name = posixpath.basename(address.rstrip("/"))
            path = as_text(posixpath.relpath(address, root))
            if address.rstrip("/") == folder.rstrip("/"):
                continue  # object stores list a folder's own marker in it
            if is_page and ("?" in address or "#" in address):
                passed.files += 1  # the column heads that Apache's page of a folder is sorted by
            elif ".." in address.split("/"):
                yield Item(path, address, problem="a name that leaves the folder")
            elif entry.get("type") != "directory":
                if is_xray_name(name):
                    yield Item(path, files.unstrip_protocol(address))
                else:
                    passed.files += 1
            elif is_searched_folder(name):
                if depth >= MAX_DEPTH:
                    yield Item(path, address, problem="folders too deep")
                else:
                    folders.append((address, depth + 1))


def _entries(files: Any, folder: str) -> list[dict[str, Any]]:
    try:
        entries: list[dict[str, Any]] = files.ls(folder, detail=True)
        files.invalidate_cache(folder)  # else every folder's list is kept
    except Exception as error:  # each file system has errors of its own, and all mean the same here
        raise cannot_read(
            without_secrets(files.unstrip_protocol(folder)), "a folder that can be listed", what_came(error)
        ) from error
    return entries


def cannot_read(what: str, expected: str, came: str) -> InputError:
    """The error for a source that cannot be listed."""
    return InputError(
        f"{what} cannot be read",
        expected=expected,
        came=" ".join(came.split())[:300],
        do="check the address, the permissions and the network; then give the same command again: what is done stands",
    )
