"""Files that are either whole or not there: the one way in which anything here is written."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(
    path: Path,
    content: bytes,
    *,
    mode: int | None = None,
    temporary: Path | None = None,
    verify: Callable[[Path], object] | None = None,
) -> None:
    """Write a file so that a kill or a power cut leaves the old one or the new one. A link in its place is replaced.

    The content is synced before the rename; the rename itself is durable only after `sync_folder`.

    Args:
        path: the file; its folder must be there.
        content: all of it.
        mode: permissions, exactly these: a root shell with umask 077 must not lock the service out. None: 0666 less
            the process's umask.
        temporary: where it grows, in the same folder. None: a hidden name that no other process uses. A name given
            here, always the same for `path`, leaves nothing behind: what a kill left there is overwritten next time.
        verify: called with the finished temporary file; what it raises keeps the old file.

    Raises:
        OSError: the folder is gone or cannot be written, or its disk is full.
    """
    part = temporary or path.with_name(f".cxr-{short_hash(path.name)}-{os.getpid()}.part")
    try:
        with os.fdopen(create_new(part, mode=0o666 if mode is None else mode), "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if verify is not None:
            verify(part)
        part.replace(path)
    except BaseException:
        # The first error is the one to hear of.
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def create_new(path: Path, *, mode: int = 0o666) -> int:
    """Create a file in place of whatever has that name, and open it for writing; its descriptor.

    Raises:
        OSError: the folder is gone or cannot be written.
    """
    path.unlink(missing_ok=True)
    # O_EXCL and O_NOFOLLOW: in a folder that others write to, nobody can have us write through a link of theirs.
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable (fsync(2): a file's own fsync does not reach the entry in its folder).

    Raises:
        OSError: the folder is gone.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def short_hash(name: str) -> str:
    """24 hex digits that stand for a file name of any length and any bytes."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:24]
