"""What this machine lacks for emulated devices, in words that a skipped test can show."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache

# Program and the Debian package that brings it.
PROGRAMS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}
FOREIGN_PROGRAMS = {"qemu-aarch64-static": "qemu-user-static", "arch-test": "arch-test"}
BOOT_PROGRAMS = {
    "qemu-system-aarch64": "qemu-system-arm",
    "mkfs.ext4": "e2fsprogs",
    "depmod": "kmod",
    "cpio": "cpio",
}
# The mounts that every device needs.
_TRY = """
mount -t tmpfs none /mnt
mkdir /mnt/lower /mnt/up /mnt/work /mnt/root /mnt/group
mount -t overlay -o lowerdir=/mnt/lower,upperdir=/mnt/up,workdir=/mnt/work none /mnt/root
mount -t cgroup2 none /mnt/group
"""


@cache
def missing() -> str:
    """Why no amd64 device can be started here; empty: it can."""
    return _first_reason(PROGRAMS)


@cache
def missing_for_arm64() -> str:
    """Why no aarch64 device can be started here; empty: it can."""
    return missing() or _first_reason(FOREIGN_PROGRAMS) or _no_binfmt()


@cache
def missing_for_boot() -> str:
    """Why no whole aarch64 machine can be booted here; empty: it can."""
    return missing_for_arm64() or _first_reason(BOOT_PROGRAMS)


def _first_reason(programs: dict[str, str]) -> str:
    if sys.platform != "linux":
        return "needs Linux: devices live in its namespaces"
    if os.geteuid() != 0:
        return "needs root: devices live in namespaces of their own"
    lacking = sorted({package for program, package in programs.items() if not shutil.which(program)})
    if lacking:
        return f"needs apt-get install {' '.join(lacking)}"
    # A container without CAP_SYS_ADMIN is root in name only.
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-ec", _TRY],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if tried.returncode == 0 else f"needs namespaces and their mounts: {tried.stderr.strip()}"


def _no_binfmt() -> str:
    command = ["unshare", "-m", "mount", "-t", "binfmt_misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"needs binfmt_misc in the kernel: {tried.stderr.strip()}"
