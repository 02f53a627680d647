"""Reading one file once: what is hashed is what is scored, and a file that changes under the reader is not finished."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import stat
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.errors import ImageError, ImageOutOfBounds, UnreadableImage
from firmware_bridge.journal import Arrival


@dataclass(frozen=True, slots=True)
class Contents:
    """A file as it was read: its bytes, or the error that stands for them. `arrival` is what the journal takes."""

    arrival: Arrival
    data: bytes = b""
    error: ImageError | None = None

    def is_at(self, path: Path) -> bool:
        """Whether the file there is the one that was read, as far as size and time tell."""
        try:
            status = path.lstat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.arrival.size_bytes, self.arrival.mtime_ns)


class NotFinished(Exception):
    """The file changed while it was read."""


class NoFile(Exception):
    """There is no regular file of that name (any more)."""


def read_file(path: Path, *, max_bytes: int, name: Path | None = None) -> Contents:
    """Read and hash a file; never a link, a pipe or a device, and never more than `max_bytes`.

    Args:
        path: where it is now.
        max_bytes: a larger one is refused.
        name: the path under which it is journaled, where it was moved to `path`.

    Raises:
        NoFile: see there.
        NotFinished: see there.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            raise NoFile from error
        return _unreadable(path, error, name or path)
    before = os.fstat(handle)
    if not stat.S_ISREG(before.st_mode):
        os.close(handle)
        raise NoFile
    with os.fdopen(handle, "rb", buffering=0) as file:
        if before.st_size > max_bytes:
            return _too_large(name or path, before, max_bytes)
        if _has_writer(handle):
            raise NotFinished
        try:
            data = file.read(before.st_size + 1) or b""
        except OSError as error:
            return _unreadable(path, error, name or path)
        after = os.fstat(handle)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns) or len(data) != before.st_size:
        raise NotFinished
    digest = hashlib.sha256(data).hexdigest()
    return Contents(Arrival(name or path, digest, before.st_size, before.st_mtime_ns), data)


def _has_writer(handle: int) -> bool:
    """Whether a program has the file open for writing, as far as the kernel tells.

    fcntl(2), "Leases": a read lease is refused with EAGAIN while anybody has the file open for writing. Only the file's
    owner (or root) may ask, and network file systems know nothing of it; then the answer is no.
    """
    try:
        # Whoever opens it in this very moment has the kernel signal us. SIGIO would end the process, SIGURG does not.
        fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _unreadable(path: Path, error: OSError, name: Path) -> Contents:
    try:
        status = path.lstat()
    except OSError:
        raise NoFile from error
    refusal = UnreadableImage(
        "the file cannot be read",
        expected="a file that the agent may read",
        came=error.strerror or str(error),
        do="mend its permissions or the disk, then copy it again",
    )
    return Contents(_stand_in(name, status), error=refusal)


def _too_large(path: Path, status: os.stat_result, max_bytes: int) -> Contents:
    refusal = ImageOutOfBounds(
        "the file is too large",
        expected=f"at most {max_bytes} bytes",
        came=f"{status.st_size} bytes",
        do="export a single X-ray, compressed",
    )
    return Contents(_stand_in(path, status), error=refusal)


def _stand_in(path: Path, status: os.stat_result) -> Arrival:
    """An arrival whose content is not known: name, size and time stand for it."""
    text = b"not read:%s:%d:%d" % (os.fsencode(path), status.st_size, status.st_mtime_ns)
    return Arrival(path, hashlib.sha256(text).hexdigest(), status.st_size, status.st_mtime_ns)
