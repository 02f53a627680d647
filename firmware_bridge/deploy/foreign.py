"""Files that somebody else may exchange at any moment: root opens them so that no link and no pipe can mislead it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_regular(path: str | Path, *, folder: int | None = None, owner: int | None = None) -> int:
    """Open a regular file for reading: its descriptor.

    Args:
        path: the file; its last part is not followed where it is a link.
        folder: a descriptor that `path` is relative to.
        owner: whose it must be.

    Raises:
        OSError: it is not there, is a link (ELOOP), or anything but a regular file of that owner (EINVAL).
    """
    # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags, dir_fd=folder)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or owner not in (None, status.st_uid):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file of its owner", str(path))
    return handle


def read_regular(path: str | Path, *, most_bytes: int, folder: int | None = None, owner: int | None = None) -> bytes:
    """The bytes of a small file; see `open_regular`.

    Raises:
        OSError: see there; or it is larger (EFBIG).
    """
    with os.fdopen(open_regular(path, folder=folder, owner=owner), "rb") as file:
        raw = file.read(most_bytes + 1)
    if len(raw) > most_bytes:
        raise OSError(errno.EFBIG, f"more than {most_bytes} bytes", str(path))
    return raw


def open_folder(path: str | Path, *, folder: int | None = None) -> int:
    """Open a folder that is no link: its descriptor.

    Raises:
        OSError: it is not there, or anything else.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
