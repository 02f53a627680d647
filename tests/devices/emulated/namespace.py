"""The room that an emulated device lives in: mounts and a network of its own, held by one process.

Everything in it (tmpfs, overlay, cgroup view, cable) goes away with that process, also when the tests are killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from emulated.rootfs import Release, register_interpreter

# The kernel kills what this machine started when the starting process dies: nothing is left behind.
DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL")
# A process namespace too: when its first process dies, the kernel ends every other one in it.
_UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
_ROOM = """
mount -t tmpfs -o size=$2,mode=755 cxr-edge /mnt
mkdir /mnt/up /mnt/work /mnt/root
mount -t overlay -o lowerdir=$1,upperdir=/mnt/up,workdir=/mnt/work overlay /mnt/root
mount -t tmpfs -o mode=755 cxr-edge /run
! mountpoint -q /sys/fs/cgroup || umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /sys/fs/cgroup/cxr-edge-devices/$3
"""


class Room:
    """Mounts the `lower` folders (the first wins) read-only below a tmpfs of `disk`.

    The device's files are then at `root`, seen from here.

    Attributes:
        pid: the process that holds the namespaces.
    """

    def __init__(self, lower: Sequence[Path], *, name: str, disk: str, release: Release) -> None:
        script = "set -e\n" + _ROOM
        if release.foreign:
            script += register_interpreter(release.arch) + "\n"
        script += "echo ready\nexec sleep infinity\n"
        self._name = name
        self._holder = subprocess.Popen(
            [*DIE_WITH_US, *_UNSHARE, "sh", "-c", script, "sh", ":".join(map(str, lower)), disk, name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            _, said = self._holder.communicate()
            raise RuntimeError(f"no room for {name}: {said}")
        self.pid = children(self._holder.pid)[0]

    @property
    def root(self) -> Path:
        """The device's root file system, readable and writable from here at any time."""
        return Path(f"/proc/{self.pid}/root/mnt/root")

    @property
    def cgroup(self) -> Path:
        """The device's control group."""
        return Path(f"/proc/{self.pid}/root/sys/fs/cgroup/cxr-edge-devices/{self._name}")

    def enter(self, *command: str) -> list[str]:
        """The command line that runs `command` in here."""
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", *command]

    def close(self) -> None:
        """Remove the control groups that the device left, and end the holder."""
        # Deepest first; a control group is a folder that only rmdir removes.
        top = "/sys/fs/cgroup/cxr-edge-devices"
        remove = f"find {top}/{self._name} -depth -type d -exec rmdir {{}} + ; rmdir {top}"
        subprocess.run(self.enter("sh", "-c", remove), capture_output=True, check=False)
        os.kill(self.pid, signal.SIGKILL)
        self._holder.communicate()


def children(pid: int) -> list[int]:
    """Processes that `pid` started; none if it is gone."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in text.split()]
