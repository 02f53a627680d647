"""Files that are either whole or not there, and a folder that one process at a time works in."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware_bridge import files
from firmware_bridge.errors import ConfigError, CxrEdgeError, InputError, ModelError, ResourceError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Below this a failed write is put down to the disk: NumPy's, HDF5's and TensorFlow's errors carry no number.
_ALMOST_FULL_BYTES = 1_000_000
# TensorFlow's errors carry codes of their own: not found, there already, not permitted, no such folder.
_OF_TENSORFLOW = (5, 6, 7, 9)
# What a kill leaves of `replacing` and of `write_atomically`, and no other hidden file.
_LEFTOVER = re.compile(r"\.\d+\.part\..+|\.cxr-[0-9a-f]{24}-\d+\.part", re.DOTALL)


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


def remember_content(path: Path, *, of: Path | None = None) -> None:
    """Write the SHA-256 of the file beside it: HDF5 has no checksum, and weights that rotted still load.

    Args:
        path: the file, for `require_unchanged`.
        of: where its content is now; None: there.
    """
    write_atomically(_sum_of(path), hashlib.sha256((of or path).read_bytes()).hexdigest() + "\n")


def require_unchanged(path: Path) -> None:
    """Refuse a file whose content is not what `remember_content` wrote down; without a word of it, take it as it is.

    Raises:
        ModelError: it has changed since.
    """
    beside = _sum_of(path)
    if (
        beside.is_file()
        and beside.read_bytes().strip().decode("ascii", "replace") != hashlib.sha256(path.read_bytes()).hexdigest()
    ):
        raise ModelError(
            f"{path} has changed since it was written",
            expected=f"the content whose SHA-256 is in {beside.name}",
            came="another content: the disk lost some of it, or somebody put other weights there",
            do=f"remove {path.parent} to train this phase again (or {beside.name}, to take the file as it is)",
        )


def _sum_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


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
    if getattr(error, "error_code", None) in _OF_TENSORFLOW:
        return str(getattr(error, "message", error)).splitlines()[0]
    if number in _FULL or os.strerror(errno.ENOSPC) in str(error):
        return "the disk is full"
    place = next((p for p in path.absolute().parents if p.exists()), None)
    if place is not None and shutil.disk_usage(place).free < _ALMOST_FULL_BYTES:
        return f"the disk is full ({type(error).__name__})"
    return str(error) if number is not None else None


@contextmanager
def only_here(folder: Path, *, do: str = "wait for that run, or choose another --name") -> Iterator[Callable[[], None]]:
    """Make `folder` and keep every other process out of it until the block ends; a kill frees it as well.

    Leftovers of processes that were killed while they wrote are removed.

    Args:
        folder: see above.
        do: the advice to whom it is kept out.

    Returns:
        What looks whether it still is this folder, and raises ResourceError where it was moved, removed or unmounted,
        or its lock was: then another process may work in it.

    Raises:
        ConfigError: another process works in it.
        ResourceError: it cannot be written or locked.
    """
    token = secrets.token_bytes(16)

    def look() -> None:
        try:
            came = "" if (folder / ".lock").read_bytes() == token else "its lock is another one"
        except OSError as error:
            came = f"its lock: {error.strerror}"
        if came:
            raise ResourceError(
                f"{folder} is not the folder any more that this run began in",
                expected="that it stays where it is, with its hidden files, until the run is over",
                came=came,
                do="bring it back (mounted, under its name), then give the same command again: what is done stands",
            )

    with storing(folder / ".lock"):
        folder.mkdir(parents=True, exist_ok=True)
        # Not through a link: whoever may write there must not have a file of somebody else's emptied.
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        file = os.fdopen(handle, "w")
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
        except OSError as error:
            raise ResourceError(
                f"{folder} cannot be locked",
                expected="a folder on a disk or share that can lock files",
                came=error.strerror or str(error),
                do="choose a folder on another disk",
            ) from error
        with storing(folder / ".lock"):
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), token, 0)
        for left in folder.rglob(".*.part*"):
            if _LEFTOVER.fullmatch(left.name) and not left.is_dir():
                left.unlink(missing_ok=True)
        yield look


def damaged_note(file: Path, error: Exception) -> InputError:
    """The error of a JSON file that a run keeps beside its results, and that cannot be read."""
    return InputError(
        f"{file} cannot be read",
        expected="JSON as the run writes it",
        came=str(error),
        do="remove it and give the run's cxr-edge train-qat command again",
    )
