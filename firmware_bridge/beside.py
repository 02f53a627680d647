"""The JSON beside an X-ray: `name.ext.cxr.json`, whole or not there, and durable when the call returns."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from firmware_bridge.files import create_new, short_hash, write_atomically

SUFFIX = ".cxr.json"
OVERLAY_SUFFIX = ".cxr.png"
REPORT_SUFFIX, CAPTURE_SUFFIX = ".cxr.sr.dcm", ".cxr.sc.dcm"
OURS = (SUFFIX, OVERLAY_SUFFIX, REPORT_SUFFIX, CAPTURE_SUFFIX)
_TEMPORARY_PREFIX = ".cxr-"
_MAX_NAME_BYTES = 255
# What programs call a file that they have not finished.
_UNFINISHED_SUFFIXES = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".filepart", ".download", "~")
# What Windows puts into folders by itself: on a share it would come back whenever it was moved to rejected/.
_OF_WINDOWS = ("thumbs.db", "desktop.ini")


def is_taken_name(name: str) -> bool:
    """Whether a file of that name is ours to take: not hidden, a result, half-written by custom, or of Windows."""
    lower = name.lower()
    return not name.startswith(".") and lower not in _OF_WINDOWS and not lower.endswith((*OURS, *_UNFINISHED_SUFFIXES))


def is_taken_path(path: Path) -> bool:
    """The same for a path below the watched folder: hidden folders are not looked into."""
    return is_taken_name(path.name) and not any(part.startswith(".") for part in path.parts)


def json_path(image: Path) -> Path:
    """Where the JSON of an image lies."""
    return path_beside(image, SUFFIX)


def path_beside(image: Path, suffix: str) -> Path:
    """Where a file of ours about an image lies. A name too long for the suffix is cut and told apart by a hash."""
    name = os.fsencode(image.name)
    if len(name) + len(suffix) > _MAX_NAME_BYTES:
        digest = hashlib.sha256(name).hexdigest()[:16].encode()
        name = name[: _MAX_NAME_BYTES - len(suffix) - 17] + b"-" + digest
    return image.parent / (os.fsdecode(name) + suffix)


class Draft:
    """The JSON of an image as a temporary file, that can be synced together with others and then gets its name.

    Raises:
        OSError: the folder is gone, read-only, or its disk is full.
    """

    def __init__(self, image: Path, record: str) -> None:
        target = json_path(image)
        # One temporary name for each image: what a kill leaves behind, the next run overwrites.
        self._temporary = target.with_name(f"{_TEMPORARY_PREFIX}{short_hash(target.name)}.tmp")
        self._handle = create_new(self._temporary)
        try:
            _write_all(self._handle, record.encode() + b"\n")
            # The kernel begins to write now, without being waited for: then the first sync of many finds the place on
            # disk of all of them decided, and commits it for all. posix_fadvise(2): dirty pages are written first.
            os.posix_fadvise(self._handle, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            self.drop()
            raise

    def sync(self) -> None:
        """Make the content durable.

        Raises:
            OSError: the disk is full or broken.
        """
        try:
            os.fsync(self._handle)
        except OSError:
            self.drop()
            raise
        self._close()

    def place(self, image: Path) -> None:
        """Give it the name beside the image, which lies in the same folder. A link in its place is replaced.

        Durable after `files.sync_folder`.

        Raises:
            OSError: the folder is gone or read-only.
        """
        self._temporary.replace(json_path(image))

    def take_back(self, image: Path) -> None:
        """Undo `place`.

        Raises:
            OSError: see there.
        """
        json_path(image).replace(self._temporary)

    def drop(self) -> None:
        """Remove it."""
        self._close()
        with contextlib.suppress(OSError):  # the error that led here is the one to hear of
            self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def write_overlay(image: Path, png: bytes) -> None:
    """Write the overlay of an image, whole or not at all.

    Raises:
        OSError: the folder is gone, read-only, or its disk is full.
    """
    target = path_beside(image, OVERLAY_SUFFIX)
    write_atomically(target, png, temporary=target.with_name(f"{_TEMPORARY_PREFIX}{short_hash(target.name)}.tmp"))


def write_beside(image: Path, record: str) -> None:
    """Write the JSON of an image: into a temporary file, synced, then renamed. A link in its place is replaced.

    The rename is durable after `files.sync_folder`.

    Raises:
        OSError: the folder is gone, read-only, or its disk is full.
    """
    draft = Draft(image, record)
    try:
        draft.sync()
        draft.place(image)
    except OSError:
        draft.drop()
        raise


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]
