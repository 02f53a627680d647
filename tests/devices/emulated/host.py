"""One emulated device: Debian with a real systemd and a real sshd, a clean disk, keys of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from emulated.namespace import DIE_WITH_US, Room, children
from emulated.network import Cable
from emulated.rootfs import USER, Release, rootfs

CPU_QUOTA = Path("/sys/fs/cgroup/cpu")
PASSWORD = "correct horse"
PORT = 22
# An emulated processor needs several times as long as the machine's own.
_BOOT_S = {False: 60.0, True: 240.0}
_STOP_S = 60.0
_PERIOD_US = 100_000
_SUDO = {
    "nopasswd": f"{USER} ALL=(ALL:ALL) NOPASSWD: ALL\n",
    "password": f"{USER} ALL=(ALL:ALL) ALL\n",
    "none": "",
}


class Host:
    """Running from construction until `close`.

    Attributes:
        name: of this device.
        release: what it runs.
        user: whom to log in as.
        address: where its sshd answers, on port 22.
        gateway: this machine's address, as the device sees it.
        key: file of the private key that logs in.
        password: of the user, for sudo; sshd takes none.
        known_hosts: file with the device's host key.
        root: its root file system (`layers` above what mmdebstrap made), seen from here: readable also while the
            cable is cut or the device off.
    """

    def __init__(
        self,
        release: Release,
        folder: Path,
        *,
        name: str,
        disk: str = "2g",
        sudo: str = "nopasswd",
        layers: Sequence[Path] = (),
        cores: float | None = None,
    ) -> None:
        folder.mkdir(parents=True)
        self.name, self.release = name, release
        self._cores = cores  # a quota, where this machine has version 1 of the controller (CPU_QUOTA)
        self.user, self.password = USER, PASSWORD
        self._folder = folder
        # Unique on this machine: other tests may run hosts of the same name.
        lower = [*layers, rootfs(release)]
        self._room = Room(lower, name=f"{name}-{secrets.token_hex(4)}", disk=disk, release=release)
        self._nspawn: subprocess.Popen[bytes] | None = None
        try:
            self._quota = CPU_QUOTA / self._room.cgroup.name
            self.cable = Cable(self._room.pid)
            self.address, self.gateway = self.cable.there, self.cable.here
            self.root = self._room.root
            self.key = make_key(folder / "key")
            self.known_hosts = folder / "known_hosts"
            self._prepare()
            self.set_sudo(sudo)
            self.new_host_key()
            self.boot(wait=False)
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        etc = self.root / "etc"
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        (etc / "machine-id").write_text(secrets.token_hex(16) + "\n")
        home = self.root / "home" / USER
        keys = home / ".ssh" / "authorized_keys"
        keys.write_text(self.key.with_suffix(".pub").read_text())
        for path in (home / ".ssh", keys):
            os.chown(path, 1000, 1000)
            path.chmod(0o700 if path.is_dir() else 0o600)
        line = f"{USER}:{PASSWORD}".encode()
        subprocess.run(self._room.enter("chroot", "/mnt/root", "chpasswd"), input=line, check=True)

    def set_sudo(self, how: str) -> None:
        """`nopasswd`, `password` or `none`."""
        # The group `sudo` may do everything by Debian's own file: the user is in it only where a person would be.
        groups = self.root / "etc" / "group"
        member = "sudo:x:27:" + (USER if how != "none" else "")
        lines = [member if line.startswith("sudo:") else line for line in groups.read_text().splitlines()]
        groups.write_text("\n".join(lines) + "\n")
        rule = self.root / "etc" / "sudoers.d" / "edge"
        rule.write_text(_SUDO[how])
        rule.chmod(0o440)

    def new_host_key(self) -> None:
        """Give the device another host key (at its next start of sshd); `known_hosts` then has the new one."""
        ssh = self.root / "etc" / "ssh"
        for old in ssh.glob("ssh_host_*"):
            old.unlink()
        file = self._folder / f"host-{secrets.token_hex(4)}"
        make_key(file)
        (ssh / "ssh_host_ed25519_key").write_bytes(file.read_bytes())
        (ssh / "ssh_host_ed25519_key").chmod(0o600)
        public = file.with_suffix(".pub").read_text()
        (ssh / "ssh_host_ed25519_key.pub").write_text(public)
        self.known_hosts.write_text(f"{self.address} {public}")

    def _held(self) -> list[str]:
        """What holds the device to its share of a core."""
        if self._cores is None:
            return []
        self._quota.mkdir(exist_ok=True)
        (self._quota / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (self._quota / "cpu.cfs_quota_us").write_text(str(round(self._cores * _PERIOD_US)))
        return ["sh", "-c", f'echo $$ > {self._quota}/cgroup.procs; exec "$@"', "held"]

    def boot(self, *, wait: bool = True) -> None:
        """Switch it on."""
        assert self._nspawn is None, f"{self.name} runs already"
        group = self._room.cgroup.name
        start = (
            f"echo $$ > /sys/fs/cgroup/cxr-edge-devices/{group}/cgroup.procs\n"
            "export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1\n"
            "exec systemd-nspawn --quiet --boot --directory=/mnt/root --register=no --keep-unit --link-journal=no"
            f" --resolv-conf=off --timezone=off --machine={self.name} --network-namespace-path=/proc/self/ns/net"
            " --console=read-only"
        )
        with (self._folder / "console.log").open("ab") as console:
            self._nspawn = subprocess.Popen(
                [*DIE_WITH_US, *self._held(), *self._room.enter("sh", "-ec", start)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until sshd answers."""
        limit_s = _BOOT_S[self.release.foreign]
        deadline_s = time.monotonic() + limit_s
        while not self._answers():
            if self._nspawn is None or self._nspawn.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{self.name} does not answer within {limit_s:g} s:\n{self.console()}")
            time.sleep(0.03)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.address, PORT), timeout=2) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def console(self) -> str:
        """What was printed there since the first start."""
        return (self._folder / "console.log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Its process 1, seen from here."""
        assert self._nspawn is not None, f"{self.name} is off"
        (nspawn,) = children(self._nspawn.pid)
        return children(nspawn)[0]

    def inside(
        self, *command: str, check: bool = True, timeout_s: float = 60, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run as root on the device's own console: needs neither its network nor its sshd."""
        entered = ["nsenter", "-t", str(self.pid), "--all", *command]
        return run(entered, check=check, timeout_s=timeout_s, stdin=stdin)

    def ssh(
        self, command: str, *, check: bool = True, timeout_s: float = 60, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell line there as the user, over the network."""
        options = [f"UserKnownHostsFile={self.known_hosts}", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes"]
        options += ["BatchMode=yes", "ConnectTimeout=10", "GlobalKnownHostsFile=/dev/null"]
        line = ["ssh", "-F", "none", "-i", str(self.key), *[word for option in options for word in ("-o", option)]]
        return run([*line, f"{self.user}@{self.address}", command], check=check, timeout_s=timeout_s, stdin=stdin)

    def systemctl(self, *words: str) -> str:
        """What `systemctl` prints there."""
        return self.inside("systemctl", *words).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.inside("systemctl", "show", "--value", "--property", name, unit, check=False).stdout.strip()

    def power_off(self) -> None:
        """Pull the power plug: no process is asked, what was written stays."""
        assert self._nspawn is not None, f"{self.name} is off already"
        # Its process 1: nspawn collects it, which the kernel allows only when all others there are dead.
        os.kill(self.pid, signal.SIGKILL)
        self._nspawn.wait(_STOP_S)
        self._nspawn = None

    def reboot(self) -> None:
        """Shut down in order, and start again."""
        assert self._nspawn is not None, f"{self.name} is off"
        self.inside("systemctl", "reboot", check=False)
        # nspawn ends when its system restarts; it is started again with the same disk.
        self.wait_off()
        self.boot()

    def wait_off(self) -> None:
        """Until it has shut down by itself."""
        assert self._nspawn is not None, f"{self.name} is off"
        self._nspawn.wait(_STOP_S)
        self._nspawn = None

    def fill_disk(self, *, leave_bytes: int) -> Path:
        """Fill the disk but for `leave_bytes`; the file to remove again."""
        filler = self.root / "var" / "filler"
        with filler.open("wb") as file:
            # In pieces: others may be writing meanwhile.
            while (left_bytes := self.free_bytes() - leave_bytes) > 0:
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), min(left_bytes, 2**24))
        return filler

    def free_bytes(self) -> int:
        """Room on its disk."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def processor_s(self) -> float:
        """Seconds of processor time that it has used since it was made."""
        fields = dict(line.split() for line in (self._room.cgroup / "cpu.stat").read_text().splitlines())
        return int(fields["usage_usec"]) / 1e6

    def skew_clock(self, offset: str) -> None:
        """Shift the clock that `date` and `python3` show there (libfaketime's form: "-400d")."""
        # Not through ld.so.preload: sshd's sandbox kills a process that asks for the time in libfaketime's way.
        for program, real in (("date", "date.real"), ("python3", f"python{self.release.python}")):
            path = self.root / "usr/bin" / program
            if not path.with_name(real).exists():
                path.rename(path.with_name(real))
            path.unlink(missing_ok=True)
            fake = f"LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 FAKETIME={offset}"
            self.put(f"/usr/bin/{program}", f'#!/bin/sh\n{fake} exec /usr/bin/{real} "$@"\n'.encode(), mode=0o755)

    def keep(self, folder: Path) -> None:
        """Copy what was written to its disk since it was made: a layer for other hosts. It must be off."""
        assert self._nspawn is None, f"{self.name} is on"
        # -a takes overlayfs's own marks (whiteouts, trusted.overlay.*) along: they mean the same in a lower layer.
        run(["cp", "-a", str(self.root.with_name("up")), str(folder)], check=True, timeout_s=120, stdin="")

    def put(self, path: str, data: bytes, *, mode: int = 0o644) -> Path:
        """Write a file there, from outside, as root; its path seen from here."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(mode)
        return target

    def close(self) -> None:
        """Take everything away."""
        if self._nspawn is not None:
            self.power_off()
        if hasattr(self, "cable"):
            self.cable.remove()
        self._room.close()
        if self._cores is not None and self._quota.exists():
            self._quota.rmdir()


def make_key(file: Path) -> Path:
    """A key pair without passphrase, for one test."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(file)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return file


def run(command: list[str], *, check: bool, timeout_s: float, stdin: str) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done
