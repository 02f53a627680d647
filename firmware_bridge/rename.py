"""Renames that never replace a file, on local disks and shares alike."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from pathlib import Path

_AT_FDCWD = -100
_NOREPLACE = 1  # renameat2(2), RENAME_NOREPLACE
_MOST_NAME_BYTES = 255
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_LIBC = ctypes.CDLL(None, use_errno=True)


def move_new(source: Path, target: Path) -> None:
    """Rename a file to a name that nobody has.

    Raises:
        FileExistsError: somebody has it.
        OSError: see rename(2); EXDEV when the two are not on one file system.
    """
    if not _rename_if_new(source, target):
        # NFS and some shares know no such rename. A name that we create, and nobody else, is ours to replace.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            os.rename(source, target)  # noqa: PTH104 - the errors are the caller's, as they come
        except OSError:
            target.unlink(missing_ok=True)
            raise


def _rename_if_new(source: Path, target: Path) -> bool:
    """Rename by renameat2(2); False where the kernel, the C library or the file system does not know it."""
    if not hasattr(_LIBC, "renameat2"):  # glibc before 2.28
        return False
    if _LIBC.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


def leads_through_link(path: Path, below: Path) -> bool:
    """Whether a folder between `below` and the file is a link by now: somebody would have us work where he likes."""
    return any((below / folder).is_symlink() for folder in list(path.relative_to(below).parents)[:-1])


def free_name(path: Path, tag: str = "") -> Path:
    """A name beside `path` that tells it apart: `1~TAG.jpg`. Without a tag: one that nobody has by chance."""
    tag = tag or secrets.token_hex(4)
    suffix = os.fsencode(path.suffix)[:20]
    stem = os.fsencode(path.name)[: len(os.fsencode(path.name)) - len(os.fsencode(path.suffix))]
    stem = stem[: _MOST_NAME_BYTES - len(suffix) - len(tag) - 1]
    return path.parent / os.fsdecode(stem + b"~" + tag.encode() + suffix)
