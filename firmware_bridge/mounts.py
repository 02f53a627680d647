"""What file system a folder lies on: where other machines write, the kernel tells nothing of it (inotify(7), BUGS)."""

from __future__ import annotations

import os
import re
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
# Also names of FUSE programs ("fuse.sshfs"); "fuseblk" is a local disk (NTFS).
_NETWORK = {
    "9p", "afs", "afp", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse", "glusterfs", "gpfs", "lustre", "ncpfs",
    "nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "smb3", "smbfs", "sshfs", "vboxsf", "virtiofs", "vmhgfs",
}  # fmt: skip
_ESCAPE = re.compile(rb"\\([0-7]{3})")


def network_type(folder: Path, *, mountinfo: Path = MOUNTINFO) -> str:
    """The type of the network file system that holds `folder`; "" for a local one, or where nobody knows.

    proc(5), /proc/PID/mountinfo: the mount point is the fifth field, the type follows the lone hyphen.
    """
    kind = type_of(folder, mountinfo=mountinfo)
    family, _, program = kind.partition(".")
    return kind if family in _NETWORK or program in _NETWORK else ""


def type_of(folder: Path, *, mountinfo: Path = MOUNTINFO) -> str:
    """The type of the file system that holds `folder`, as the kernel calls it; "" where nobody knows."""
    try:
        lines = mountinfo.read_bytes().splitlines()
    except OSError:
        return ""
    wanted, found, kind = os.fsencode(folder), b"", b""
    for line in lines:
        fields, _, rest = line.partition(b" - ")
        point = _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), fields.split(b" ")[4])
        inside = wanted == point or wanted.startswith(point.rstrip(b"/") + b"/")
        if inside and len(point) >= len(found):  # of two on one point, the later one covers the other
            found, kind = point, rest.split(b" ")[0]
    return os.fsdecode(kind)
