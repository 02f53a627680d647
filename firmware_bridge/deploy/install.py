"""What a release needs around it: the service's user, folders, keys, secrets, links for systemd. All idempotent."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from firmware_bridge.deploy import secret_files
from firmware_bridge.deploy.layout import ACTIVATION, PROOF_USER, SERVICE, UPDATE, UPDATE_PATH, USER, Layout
from firmware_bridge.deploy.release import point
from firmware_bridge.errors import DeployError
from firmware_bridge.files import write_atomically

PYTHON = "/usr/bin/python3"  # the distribution's, for which the packages were chosen
_COMPILE_LIMIT_S = 900.0
_ACTIVATION_UNIT = """\
[Unit]
Description=Settle a switch to another cxr-edge release: watch it, or go back
Documentation=file:///opt/cxr-edge/activating/release.json
# Started by a deployment; started by itself where the machine went down in the middle of one.
ConditionPathExists=/opt/cxr-edge/activating

[Service]
Type=oneshot
Environment=PYTHONPATH=/opt/cxr-edge/activating/app PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1
ExecStart=/usr/bin/python3 -m firmware_bridge.deploy activate
UMask=0022
# An hour's watch (`deploy --watch 3600`), and all that comes before and after it.
TimeoutStartSec=7200

[Install]
WantedBy=multi-user.target
"""
_UPDATE_UNIT = """\
[Unit]
Description=Install the bundle that the cxr-edge agent fetched, if its signature is trusted
ConditionPathExists=/var/lib/cxr-edge/update/ready.cxr

[Service]
Type=oneshot
Environment=PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1
# The release as it is now: the link changes under way.
ExecStart=/bin/sh -c 'r=$$(readlink -f /opt/cxr-edge/current) && PYTHONPATH=$$r/app:$$r/site \
  exec /usr/bin/python3 -m firmware_bridge.deploy update'
UMask=0022
TimeoutStartSec=1800
"""
_UPDATE_PATH_UNIT = """\
[Unit]
Description=Wait for a bundle that the cxr-edge agent fetched

[Path]
PathExists=/var/lib/cxr-edge/update/ready.cxr

[Install]
WantedBy=multi-user.target
"""
_UNITS = {ACTIVATION: _ACTIVATION_UNIT, UPDATE: _UPDATE_UNIT, UPDATE_PATH: _UPDATE_PATH_UNIT}


def install(layout: Layout, *, secrets: Mapping[str, str], watch: str) -> list[str]:
    """Make what is missing and change what differs; what was done, in words. Nothing done: an empty list.

    Args:
        layout: the device.
        secrets: name -> text; in use from the next switch on. Those of other names stay.
        watch: the watched folder.

    Raises:
        DeployError: the user cannot be made.
        OSError: the disk is full or cannot be written.
    """
    done = make_users()
    account = pwd.getpwnam(USER)
    for folder, mode in ((layout.base, 0o755), (layout.layers, 0o755), (layout.releases, 0o755), (layout.etc, 0o755)):
        folder.mkdir(parents=True, exist_ok=True, mode=mode)
        folder.chmod(mode)
    layout.secrets.mkdir(exist_ok=True)
    layout.secrets.chmod(0o700)
    done += secret_files.stage(layout, secrets)
    done += make_watched(layout, watch, account)
    for name, text in _UNITS.items():
        done += _file(layout.units / name, text, 0o644, f"unit {name}")
    done += _link(layout.units / SERVICE, f"/opt/cxr-edge/current/{SERVICE}", f"unit {SERVICE}")
    if not layout.command.exists() or layout.command.is_symlink():
        done += _link(layout.command, "/opt/cxr-edge/current/cxr-edge", "command cxr-edge")
    return done


def make_users() -> list[str]:
    """Make the service's user and the one of proofs where they are lacking; which.

    Raises:
        DeployError: one cannot be made.
    """
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
    done = []
    for name, home in ((USER, "/var/lib/cxr-edge"), (PROOF_USER, "/nonexistent")):
        if _is_user(name):
            continue
        _make(
            [*command, "--home-dir", home, name],
            what=f"user {name}",
            do=f"make a system user {name} with a group of its own by hand, then deploy again",
        )
        done.append(f"user {name}")
    return done


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def make_groups(unit: str) -> list[str]:
    """Make the groups that a unit asks for and the device lacks; which. systemd starts no service without them.

    udev brings `video` and `render` along; a system without it has nothing that belongs to them.

    Raises:
        DeployError: one cannot be made.
    """
    wanted = [name for words in re.findall(r"^SupplementaryGroups=(.+)$", unit, re.MULTILINE) for name in words.split()]
    lacking = [name for name in wanted if not is_group(name)]
    for name in lacking:
        _make(
            ["groupadd", "--system", "--force", name],
            what=f"group {name}",
            do=f"make a system group {name} by hand, then deploy again",
        )
    return lacking


def _make(command: list[str], *, what: str, do: str) -> None:
    """Run one of the system's tools that make accounts.

    Raises:
        DeployError: it failed.
    """
    made = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    if made.returncode:
        raise DeployError(
            f"the {what} cannot be made",
            expected=f"{command[0]} to make it",
            came=made.stderr.strip() or f"exit code {made.returncode}",
            do=do,
        )


def is_group(name: str) -> bool:
    """Whether the device has such a group."""
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def make_watched(layout: Layout, watch: str, account: pwd.struct_passwd) -> list[str]:
    """Make the watched folder where it is lacking; what was done, in words.

    Somebody may own a folder above it and exchange what we make there for a link: what we made is opened, never
    followed, and changed through its descriptor.

    Raises:
        OSError: it cannot be made, or somebody exchanged it meanwhile.
    """
    if (layout.root / watch.lstrip("/")).is_dir():
        return []
    handle, made = os.open(layout.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), False
    try:
        for name in PurePosixPath(watch).parts[1:]:
            handle, made = _enter(handle, name)
        if not made:
            return []
        if os.fstat(handle).st_uid != os.geteuid() or any(Path(f"/proc/self/fd/{handle}").iterdir()):
            raise OSError(errno.EPERM, "somebody exchanged the folder while it was made", watch)
        os.fchown(handle, account.pw_uid, account.pw_gid)
        # Its group may put X-rays in (sftp, Samba), and what they put in is the group's: the agent writes beside it.
        os.fchmod(handle, 0o2775)
    finally:
        os.close(handle)
    return [f"folder {watch}"]


def _enter(folder: int, name: str) -> tuple[int, bool]:
    """The descriptor of a folder in `folder`, which is closed; and whether it had to be made."""
    try:
        os.mkdir(name, 0o755, dir_fd=folder)
        made = True
    except FileExistsError:
        made = False
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if made else 0)
    inner = os.open(name, flags, dir_fd=folder)
    os.close(folder)
    return inner, made


def _file(path: Path, text: str, mode: int, what: str) -> list[str]:
    try:
        same = path.read_text(encoding="utf-8") == text and (path.stat().st_mode & 0o777) == mode
    except OSError:
        same = False
    if same:
        return []
    write_atomically(path, text.encode(), mode=mode)
    path.chmod(mode)
    return [what]


def _link(path: Path, target: str, what: str) -> list[str]:
    if path.is_symlink() and str(path.readlink()) == target:
        return []
    path.parent.mkdir(parents=True, exist_ok=True)
    point(path, target)
    return [what]


def compile_layer(folder: Path, whole: Path) -> None:
    """Compile a layer's Python once, here: the service's user cannot write, and would compile at every start.

    Unchecked: a layer never changes, and its files' times mean nothing.
    """
    command = [PYTHON, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    # A package's test data may hold Python that does not compile: the exit code says nothing.
    subprocess.run(
        [*command, "-s", str(folder), "-p", str(whole), str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_COMPILE_LIMIT_S,
        check=False,
    )


def is_installed(layout: Layout) -> bool:
    """Whether all of that is there, but for secrets and the watched folder."""
    try:
        if not _is_user(USER) or not _is_user(PROOF_USER):
            return False
        if any(folder.stat().st_mode & 0o755 != 0o755 for folder in (layout.base, layout.layers, layout.releases)):
            return False  # a umask of 077 locked the service out
        same = all((layout.units / name).read_text(encoding="utf-8") == text for name, text in _UNITS.items())
        return same and (layout.units / SERVICE).is_symlink() and layout.secrets.is_dir()
    except (OSError, ValueError):
        return False
