"""Which folders are polled because other machines write to them: by the kernel's own table, and by samples of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_bridge.mounts import network_type, type_of

# As proc(5), /proc/PID/mountinfo, has them: optional fields differ in number, and names are escaped.
TABLE = rb"""22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:27 / /srv/nas rw,relatime shared:9 master:2 - nfs4 nas:/xrays rw,vers=4.2
31 22 0:28 / /srv/with\040space rw - cifs //server/share rw
32 30 8:1 / /srv/nas/local rw - ext4 /dev/sda1 rw
33 22 0:30 / /srv/ssh rw - fuse.sshfs user@host: rw
34 22 0:31 / /srv/usb rw - fuseblk /dev/sdb1 rw
35 22 0:32 / /srv/covered rw - nfs nas:/old rw
36 35 8:2 / /srv/covered rw - xfs /dev/sdc1 rw
"""


@pytest.fixture
def mountinfo(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_bytes(TABLE)
    return path


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv/nas", "nfs4"),
        ("/srv/nas/study/today", "nfs4"),
        ("/srv/nas/local/inbox", ""),
        ("/srv/nascent", ""),
        ("/srv/with space/x", "cifs"),
        ("/srv/ssh/a", "fuse.sshfs"),
        ("/srv/usb", ""),
        ("/srv/covered/x", ""),
        ("/home", ""),
    ],
)
def test_network_file_systems_are_told_by_the_mount_that_holds_the_folder(
    mountinfo: Path, folder: str, kind: str
) -> None:
    assert network_type(Path(folder), mountinfo=mountinfo) == kind


def test_the_kernels_own_table(tmp_path: Path) -> None:
    assert type_of(tmp_path), "every folder lies on something"
    assert type_of(Path("/proc/self")) == "proc"


def test_no_table_no_network(tmp_path: Path) -> None:
    assert network_type(tmp_path, mountinfo=tmp_path / "none") == ""
