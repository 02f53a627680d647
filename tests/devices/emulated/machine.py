"""One whole emulated 64-bit ARM: its own processor, memory, disk and kernel, by QEMU. Slow, and nothing is shared."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

from emulated.host import make_key, run
from emulated.kernel import kernel
from emulated.namespace import DIE_WITH_US, Room
from emulated.rootfs import DEBIAN_12_ARM, USER, rootfs

_DISK = "3G"
_MEMORY_MB = 2048
_BOOT_S = 600.0
ECHO = ("10.0.2.100", 7)  # the one address that a machine reaches: it gives back what it gets


class Machine:
    """Running from construction until `close`; see `Host` for the attributes.

    Attributes:
        port: of this machine's loopback, behind which its sshd answers.
    """

    def __init__(self, folder: Path, *, name: str) -> None:
        folder.mkdir(parents=True)
        self.name, self.user, self.address = name, USER, "127.0.0.1"
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.key = make_key(folder / "key")
        self.known_hosts = folder / "known_hosts"
        self._make_disk()
        self._qemu = self._start()

    def _make_disk(self) -> None:
        name = f"{self.name}-{secrets.token_hex(4)}"
        room = Room([rootfs(DEBIAN_12_ARM)], name=name, disk="1g", release=DEBIAN_12_ARM)
        try:
            self._prepare(room.root)
            disk = ["mkfs.ext4", "-q", "-F", "-d", str(room.root), str(self._folder / "disk"), _DISK]
            run(disk, check=True, timeout_s=300, stdin="")
        finally:
            room.close()

    def _prepare(self, root: Path) -> None:
        etc = root / "etc"
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        (etc / "machine-id").write_text(secrets.token_hex(16) + "\n")
        (etc / "fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
        rule = etc / "sudoers.d" / "edge"
        rule.write_text(f"{USER} ALL=(ALL:ALL) NOPASSWD: ALL\n")
        rule.chmod(0o440)
        # sshd lets nobody in whose account is locked ("!"); "*" is no password either.
        shadow = etc / "shadow"
        shadow.write_text(shadow.read_text().replace(f"\n{USER}:!:", f"\n{USER}:*:"))
        keys = root / "home" / USER / ".ssh" / "authorized_keys"
        keys.write_text(self.key.with_suffix(".pub").read_text())
        for path in (keys.parent, keys):
            os.chown(path, 1000, 1000)
            path.chmod(0o700 if path.is_dir() else 0o600)
        make_key(self._folder / "host")
        public = (self._folder / "host.pub").read_text()
        shutil.copy(self._folder / "host", etc / "ssh" / "ssh_host_ed25519_key")
        (etc / "ssh" / "ssh_host_ed25519_key").chmod(0o600)
        (etc / "ssh" / "ssh_host_ed25519_key.pub").write_text(public)
        self.known_hosts.write_text(f"[{self.address}]:{self.port} {public}")

    def _start(self) -> subprocess.Popen[bytes]:
        files = kernel()
        command = ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", str(_MEMORY_MB)]
        command += ["-nographic", "-no-reboot", "-kernel", str(files.image), "-initrd", str(files.initrd)]
        command += ["-append", "console=ttyAMA0 net.ifnames=0 quiet"]
        # `unsafe`: nobody pulls its plug, and the disk goes away with the test.
        command += ["-drive", f"if=none,id=disk,format=raw,cache=unsafe,file={self._folder / 'disk'}"]
        command += ["-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"]
        # restrict: it reaches nothing but the echo.
        forward = f"hostfwd=tcp:{self.address}:{self.port}-:22,guestfwd=tcp:{ECHO[0]}:{ECHO[1]}-cmd:cat"
        command += ["-netdev", f"user,id=net,restrict=on,{forward}", "-device", "virtio-net-pci,netdev=net,romfile="]
        with (self._folder / "console.log").open("ab") as console:
            return subprocess.Popen([*DIE_WITH_US, *command], stdin=subprocess.DEVNULL, stdout=console, stderr=console)

    def wait(self) -> float:
        """Until sshd answers; for how many seconds that was waited."""
        start_s = time.monotonic()
        while not self._answers():
            if self._qemu.poll() is not None or time.monotonic() - start_s > _BOOT_S:
                raise RuntimeError(f"{self.name} does not answer within {_BOOT_S:g} s:\n{self.console()}")
            time.sleep(0.2)
        return time.monotonic() - start_s

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.address, self.port), timeout=10) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def console(self) -> str:
        """What was printed there."""
        return (self._folder / "console.log").read_text(errors="replace")

    def ssh(
        self, command: str, *, check: bool = True, timeout_s: float = 300, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a shell line there as the user."""
        options = [f"UserKnownHostsFile={self.known_hosts}", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes"]
        options += ["BatchMode=yes", "ConnectTimeout=60", "GlobalKnownHostsFile=/dev/null"]
        line = ["ssh", "-F", "none", "-i", str(self.key), "-p", str(self.port)]
        line += [word for option in options for word in ("-o", option)]
        return subprocess.run(
            [*line, f"{self.user}@{self.address}", command],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=check,
        )

    def close(self) -> None:
        """Take it away."""
        self._qemu.kill()
        self._qemu.wait()
