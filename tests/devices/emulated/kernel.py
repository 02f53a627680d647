"""Debian's kernel for an emulated 64-bit ARM, and the few modules that bring its disk and network up."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from emulated.rootfs import DEBIAN_12_ARM, apt_options, cache_folder, locked, mirrors

_PACKAGES = "linux-image-arm64,busybox-static"
_MODULES = "virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "ext4"
# Debian's own initramfs would have to be made on an ARM. This one does what the modules cannot: wait for nothing, ask
# nobody. The address is the one that QEMU's user network (-netdev user) gives its only guest.
_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /dev /proc /root
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /order); do /bin/busybox insmod /modules/$module; done
/bin/busybox ip address add 10.0.2.15/24 dev eth0
/bin/busybox ip link set lo up
/bin/busybox ip link set eth0 up
/bin/busybox ip route add default via 10.0.2.2
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /lib/systemd/systemd
"""


@dataclass(frozen=True, slots=True)
class Kernel:
    """Files that QEMU boots."""

    image: Path
    initrd: Path


def kernel() -> Kernel:
    """The kernel of Debian 12 for arm64; fetched now if the cache has none (about a minute)."""
    key = hashlib.sha256(repr((DEBIAN_12_ARM, _PACKAGES, _MODULES, _INIT)).encode()).hexdigest()[:12]
    folder = cache_folder() / f"kernel-{DEBIAN_12_ARM.suite}-{DEBIAN_12_ARM.arch}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        if not folder.is_dir():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            _fetch(unfinished)
            unfinished.rename(folder)
    return Kernel(folder / "image", folder / "initrd")


def _fetch(folder: Path) -> None:
    packages = folder / "packages"
    packages.mkdir(parents=True)
    # Unpacked only: nothing of it is run here.
    command = ["mmdebstrap", "--mode=root", "--variant=extract", "--format=directory", "--quiet"]
    command += [*apt_options(folder / "apt"), "--dpkgopt=path-exclude=/usr/share/*"]
    command += [f"--architectures={DEBIAN_12_ARM.arch}", f"--include={_PACKAGES}"]
    _run([*command, DEBIAN_12_ARM.suite, str(packages), *mirrors(DEBIAN_12_ARM.suite)])
    (image,) = packages.glob("boot/vmlinuz-*")
    shutil.copy(image, folder / "image")
    _make_initrd(packages, folder, version=image.name.removeprefix("vmlinuz-"))
    shutil.rmtree(packages)


def _make_initrd(packages: Path, folder: Path, *, version: str) -> None:
    tree = folder / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "modules").mkdir()
    shutil.copy(packages / "bin" / "busybox", tree / "bin")
    _run(["depmod", "-b", str(packages), version])
    order = []
    for name in _MODULES:
        shown = _run(["modprobe", "-d", str(packages), "-S", version, "--show-depends", name])
        files = [Path(line.split()[1]) for line in shown.splitlines() if line.startswith("insmod ")]
        order += [file for file in files if file not in order]
    for file in order:
        shutil.copy(file, tree / "modules")
    (tree / "order").write_text("\n".join(file.name for file in order) + "\n")
    (tree / "init").write_text(_INIT)
    (tree / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*"))) + "\n"
    with (folder / "initrd").open("wb") as file:
        packed = ["cpio", "--quiet", "--create", "--format=newc", "--owner=0:0"]
        subprocess.run(packed, cwd=tree, input=names.encode(), stdout=file, check=True)
    shutil.rmtree(tree)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout
