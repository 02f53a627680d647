"""Files that are either whole or not there, and a folder that one process at a time works in."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware_bridge import files
from firmware_bridge.errors import ConfigError, CxrEdgeError, ResourceError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Below this a failed write is put down to the disk: NumPy's, HDF5's and TensorFlow's errors carry no number.
_ALMOST_FULL_BYTES = 1_000_000


def write_atomically(path: Path, content: str | bytes, *, verify: Callable[[Path], object] | None = None) -> None:
    """Write `content` to `path` (text as UTF-8) so that a kill or a power cut leaves the old file or the new one.

    Args:
        path: missing folders are made.
        content: all of it; file names in a text that are not UTF-8 come out as they came in (PEP 383).
        verify: called with the finished temporary file; what it raises keeps the old file.

    Raises:
        ResourceError: the disk is full, or the folder cannot be written.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, data, verify=verify)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """For libraries that write by themselves: a path that replaces `path` when the block ends well, else is removed.

    Raises:
        ResourceError: the disk is full, or the folder cannot be written.
    """
    # Keras chooses the format by the suffix.
    part = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn what libraries raise while they write `path` into the one error that tells a user what to do.

    Raises:
        ResourceError: the disk is full, or the place cannot be written.
    """
    try:
        yield
    except CxrEdgeError:
        raise
    except Exception as error:
        reason = _storage_problem(error, path)
        if reason is None:
            raise
        raise ResourceError(
            f"{path} cannot be written",
            expected="a folder that may be written, with enough free space",
            came=reason,
            do="free some space (df -h shows where) or mend the permissions, then give the same command again",
        ) from error


def _storage_problem(error: Exception, path: Path) -> str | None:
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL or os.strerror(errno.ENOSPC) in str(error):
        return "the disk is full"
    place = next((p for p in path.absolute().parents if p.exists()), None)
    if place is not None and shutil.disk_usage(place).free < _ALMOST_FULL_BYTES:
        return f"the disk is full ({type(error).__name__})"
    return str(error) if number is not None else None


@contextmanager
def only_here(folder: Path, *, do: str = "wait for that run, or choose another --name") -> Iterator[None]:
    """Make `folder` and keep every other process out of it until the block ends; a kill frees it as well.

    Leftovers of processes that were killed while they wrote are removed.

    Args:
        folder: see above.
        do: the advice to whom it is kept out.

    Raises:
        ConfigError: another process works in it.
        ResourceError: it cannot be written.
    """
    with storing(folder / ".lock"):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another process works in {folder}",
                expected="one run at a time in one folder",
                came="its lock is held",
                do=do,
            ) from error
        for left in folder.rglob(".*.part*"):
            left.unlink(missing_ok=True)
        yield
