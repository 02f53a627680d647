"""Where a release's own code runs before it is trusted: as a user of its own, in a unit with the service's sandbox.

Not as the service's user: an agent that was taken over could write into a process of its own user (ptrace(2),
/proc/PID/mem), and so get out of its sandbox and forge a proof. Files of units are used, and not systemd-run: that one
waits for a unit over D-Bus, which a small system lacks.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.deploy.foreign import open_regular
from firmware_bridge.deploy.install import PYTHON, is_group
from firmware_bridge.deploy.layout import PROOF_USER, Layout
from firmware_bridge.deploy.release import environment_of
from firmware_bridge.deploy.systemd import show, systemctl
from firmware_bridge.deploy.unit import SANDBOX
from firmware_bridge.files import write_atomically

UNIT = "cxr-edge-proof.service"
_PLACE = Path("/run/cxr-edge-proof")
_MOST_BYTES = 1_000_000
# Whose members may use a GPU: the agent's unit has the same (firmware_bridge/deploy/unit.py).
_GPU_GROUPS = ("video", "render")
_CLD_KILLED, _CLD_DUMPED = 2, 3  # waitid(2)
_UNIT_TEXT = """\
[Unit]
Description=cxr-edge: {module} of a release that does not run yet

[Service]
Type=oneshot
User={user}
Group={user}
UMask=0022
WorkingDirectory={folder}
{environment}
ExecStart={command}
StandardOutput=file:{out}
StandardError=file:{err}
TimeoutStartSec={limit_s:.0f}
TimeoutStopSec=5
KillMode=control-group
{sandbox}PrivateNetwork=yes
RestrictAddressFamilies=AF_UNIX
ProtectHome=yes
# Neither X-rays nor the agent's key are any business of it.
InaccessiblePaths=-/var/lib/cxr-edge
InaccessiblePaths=-/etc/cxr-edge
{more}
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended: its exit code, negative for a signal (as of subprocess), and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def run_apart(
    folder: Path, module: str, arguments: Sequence[str], *, limit_s: float, gpu: bool, writes: Path | None = None
) -> Ended:
    """Run one of our modules, of the release in `folder`, as root's guest.

    Args:
        folder: of the release.
        module: in `firmware_bridge.deploy`.
        arguments: of it.
        limit_s: how long it may take.
        gpu: it needs device nodes.
        writes: the one folder that it may write to.

    Raises:
        subprocess.TimeoutExpired: it took too long, and was ended.
        DeployError: systemd does not answer.
        OSError: the disk is full or cannot be written.
    """
    shutil.rmtree(_PLACE, ignore_errors=True)
    _PLACE.mkdir(mode=0o700)
    unit = Path("/run/systemd/system") / UNIT
    try:
        unit.parent.mkdir(parents=True, exist_ok=True)
        text = unit_text(folder, module, arguments, limit_s=limit_s, gpu=gpu, writes=writes)
        write_atomically(unit, text.encode(), mode=0o644)
        systemctl("stop", UNIT, check=False)  # of a deployment that was killed
        systemctl("daemon-reload")
        systemctl("reset-failed", UNIT, check=False)
        systemctl("start", UNIT, check=False, limit_s=limit_s + 60)
        found = show(UNIT, "Result", "ExecMainCode", "ExecMainStatus")
        if found.get("Result") == "timeout":
            raise subprocess.TimeoutExpired(module, limit_s)
        status = int(found.get("ExecMainStatus") or 0)
        killed = found.get("ExecMainCode") in (str(_CLD_KILLED), str(_CLD_DUMPED))
        if not killed and status == 0 and found.get("Result") != "success":
            status = 1  # systemd itself could not start it
        return Ended(-status if killed else status, _text(_PLACE / "out"), _text(_PLACE / "err"))
    finally:
        systemctl("stop", UNIT, check=False)
        unit.unlink(missing_ok=True)
        systemctl("reset-failed", UNIT, check=False)
        systemctl("daemon-reload", check=False)
        shutil.rmtree(_PLACE, ignore_errors=True)


def unit_text(
    folder: Path, module: str, arguments: Sequence[str], *, limit_s: float, gpu: bool, writes: Path | None
) -> str:
    """The unit. Nothing in it comes from outside: paths are of ours, and hex."""
    command = [PYTHON, "-m", f"firmware_bridge.deploy.{module}", *arguments]
    assert all(word and word.isprintable() and not set(word) & set(" \"'\\$%;") for word in command), command
    groups = " ".join(name for name in _GPU_GROUPS if is_group(name))
    more = [f"ReadWritePaths={writes}"] if writes else []
    if not gpu:
        more += ["PrivateDevices=yes", "DevicePolicy=closed"]
    elif groups:
        more += [f"SupplementaryGroups={groups}"]
    environment = environment_of(folder)
    return _UNIT_TEXT.format(
        module=module,
        user=PROOF_USER,
        folder=folder,
        environment="\n".join(f'Environment="{name}={_quoted(value)}"' for name, value in environment.items() if value),
        command=" ".join(command),
        out=_PLACE / "out",
        err=_PLACE / "err",
        limit_s=limit_s,
        # A compiler of engines writes machine code and runs it.
        sandbox=SANDBOX.replace("MemoryDenyWriteExecute=yes\n", "") if writes else SANDBOX,
        more="\n".join(more),
    )


def _quoted(value: str) -> str:
    """Between double quotes in a unit (systemd.syntax(7)), without specifiers."""
    return "".join(letter for letter in value if letter.isprintable() and letter not in '"\\').replace("%", "%%")


def _text(path: Path) -> str:
    """What it wrote, at most so much of it: the end."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            size_bytes = file.seek(0, os.SEEK_END)
            file.seek(max(0, size_bytes - _MOST_BYTES))
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def signal_name(code: int) -> str:
    """For a negative exit code, by which signal it ended; empty for others."""
    if code >= 0:
        return ""
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:  # one of the real-time signals, most of which have no name
        return f"ended by signal {-code}"


def own(folder: Path) -> None:
    """Give a folder to the user of proofs; what others left in there goes: nobody vouches for it.

    Raises:
        OSError: it cannot be changed.
    """
    account = pwd.getpwnam(PROOF_USER)
    os.chown(folder, account.pw_uid, account.pw_gid, follow_symlinks=False)
    for path in folder.iterdir():
        if path.lstat().st_uid != account.pw_uid:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def engines_folder(layout: Layout) -> Path:
    """The folder of TensorRT engines, made where it is not there.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    layout.engines.mkdir(exist_ok=True, mode=0o755)
    own(layout.engines)
    return layout.engines
