"""Root file systems for emulated devices: made once by mmdebstrap, kept in the cache, used read-only."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# What Raspberry Pi OS Lite and a Debian server have of what a deployment touches. `libfaketime` is the tests' own: a
# container cannot set its clock.
PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "libfaketime",
    "libstdc++6",
    "openssh-server",
    "procps",
    "python3",
    "sudo",
    "systemd",
    "systemd-sysv",
)
USER = "edge"
# Documentation is half the files and nobody reads it there; dpkg without fsync is three times as fast.
_MMDEBSTRAP = (
    "--mode=root",
    "--variant=minbase",
    "--format=directory",
    "--quiet",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=force-unsafe-io",
)
# After the packages: the user whom deployments log in as, and nothing at boot that a test host has no use for.
_FINISH = rf"""set -e
chroot "$1" useradd --create-home --shell /bin/bash --groups sudo {USER}
rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/machine-id
mkdir -p "$1"/etc/systemd/system "$1"/home/{USER}/.ssh "$1"/etc/ssh/sshd_config.d
for unit in console-getty.service getty.target apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-logind.service motd-news.timer; do
  ln -sf /dev/null "$1"/etc/systemd/system/$unit
done
printf 'UseDNS no\nUsePAM no\nPasswordAuthentication no\n' > "$1"/etc/ssh/sshd_config.d/test.conf
"""
_FOREIGN = {"arm64": "qemu-aarch64"}
# ELF, 64 bit, little endian, EM_AARCH64 (183); the mask lets any OSABI and ET_EXEC or ET_DYN through. binfmt_misc,
# Documentation/admin-guide/binfmt-misc.rst: P keeps argv[0], O opens, C lets sudo work, F keeps the interpreter open.
_REGISTER = {
    "arm64": rb":cxr-edge-qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    rb":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:%s:POCF"
}


@dataclass(frozen=True, slots=True)
class Release:
    """One kind of device.

    Attributes:
        suite: Debian's code name.
        arch: Debian's name of the architecture.
        python: version of its system Python.
    """

    suite: str
    arch: str
    python: str

    @property
    def foreign(self) -> bool:
        """Whether its programs run by emulation only."""
        return self.arch in _FOREIGN


DEBIAN_12 = Release("bookworm", "amd64", "3.11")
DEBIAN_13 = Release("trixie", "amd64", "3.13")
DEBIAN_12_ARM = Release("bookworm", "arm64", "3.11")


def cache_folder() -> Path:
    """Where root file systems are kept: below XDG_CACHE_HOME."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "cxr-edge" / "devices"


def rootfs(release: Release) -> Path:
    """The root file system of `release`; made now if the cache has none (about a minute; arm64: three)."""
    key = hashlib.sha256(repr((release, PACKAGES, _MMDEBSTRAP, _FINISH)).encode()).hexdigest()[:12]
    folder = cache_folder() / f"{release.suite}-{release.arch}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        if not folder.is_dir():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            _build(release, unfinished)
            unfinished.rename(folder)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(release: Release, folder: Path) -> None:
    finish = folder.with_suffix(".sh")
    finish.write_text(_FINISH)
    command = ["mmdebstrap", *_MMDEBSTRAP, *apt_options(folder.with_suffix(".apt"))]
    command += [f"--architectures={release.arch}", f"--include={','.join(PACKAGES)}"]
    command += [f'--customize-hook=sh {finish} "$1"', release.suite, str(folder), *mirrors(release.suite)]
    if release.foreign:
        # In a mount namespace of its own, so that the machine knows nothing of the interpreter afterwards.
        command = ["unshare", "-m", "sh", "-ec", f'{register_interpreter(release.arch)}\nexec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise RuntimeError(f"mmdebstrap failed:\n{done.stdout}\n{done.stderr}")


def apt_options(file: Path) -> list[str]:
    """The machine's own proxy and its leniency about dates: mmdebstrap starts from a clean apt configuration."""
    dump = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=True).stdout
    wanted = ("Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::Check-Valid-Until", "Acquire::Check-Date")
    file.write_text("\n".join(line for line in dump.splitlines() if line.startswith(wanted)) + "\n")
    return [f"--aptopt={file}"]


def mirrors(suite: str) -> list[str]:
    """Lines for sources.list, from the mirrors that this machine's apt uses. Raises RuntimeError where it uses none."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    found = [
        uri.rstrip("/") for uri in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    ]
    main = next((uri for uri in found if uri.endswith("/debian")), None)
    if main is None:
        raise RuntimeError("this machine's apt names no Debian mirror (.../debian): add one to its sources")
    # Mirrors keep both side by side.
    security = next((uri for uri in found if uri.endswith("/debian-security")), f"{main}-security")
    return [f"deb {main} {suite} main", f"deb {security} {suite}-security main"]


def register_interpreter(arch: str) -> str:
    """Shell lines that make the kernel run programs of `arch` as long as this mount namespace lives."""
    program = shutil.which(f"{_FOREIGN[arch]}-static")
    line = (_REGISTER[arch] % os.fsencode(program or "")).decode("ascii")
    return (
        "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc\n"
        f"[ -e /proc/sys/fs/binfmt_misc/cxr-edge-{_FOREIGN[arch]} ] || "
        f"printf '%s' '{line}' > /proc/sys/fs/binfmt_misc/register"
    )
