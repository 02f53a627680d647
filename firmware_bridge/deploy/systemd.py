"""Asking systemd, by its own programs."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass

from firmware_bridge.errors import DeployError

_LIMIT_S = 120.0
_PROPERTIES = (
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "NRestarts",
    "StatusText",
    "WatchdogUSec",
    "WatchdogTimestampMonotonic",
    "UnitFileState",
)


@dataclass(frozen=True, slots=True)
class UnitState:
    """How a unit stands.

    Attributes:
        active: "active", "activating", "failed", "inactive", ...
        sub: finer: "running", "auto-restart", ...
        result: why it ended: "success", "exit-code", "watchdog", "timeout", ...
        main_pid: 0 where nothing runs.
        restarts: how often systemd started it again by itself.
        status: what it says about itself.
        watchdog_s: within how many seconds it must speak up; 0: nobody waits for that.
        watchdog_age_s: since it spoke up last.
        enabled: whether it starts with the machine.
    """

    active: str
    sub: str
    result: str
    main_pid: int
    restarts: int
    status: str
    watchdog_s: float
    watchdog_age_s: float
    enabled: bool


def systemctl(*arguments: str, check: bool = True, limit_s: float = _LIMIT_S) -> str:
    """Run systemctl and return what it printed.

    Raises:
        DeployError: it failed (with `check`), or gave no answer.
    """
    command = ["systemctl", "--no-ask-password", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(arguments, str(error)) from error
    if check and done.returncode:
        raise _failed(arguments, done.stderr.strip() or f"exit code {done.returncode}")
    return done.stdout


def show(unit: str, *properties: str) -> dict[str, str]:
    """Properties of a unit, as systemd writes them.

    Raises:
        DeployError: systemd does not answer.
    """
    shown = systemctl("show", unit, *(f"--property={name}" for name in properties))
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def state_of(unit: str) -> UnitState:
    """How `unit` stands.

    Raises:
        DeployError: systemd does not answer.
    """
    found = show(unit, *_PROPERTIES)
    last_us = int(found.get("WatchdogTimestampMonotonic") or 0)
    return UnitState(
        active=found.get("ActiveState", ""),
        sub=found.get("SubState", ""),
        result=found.get("Result", ""),
        main_pid=int(found.get("MainPID") or 0),
        restarts=int(found.get("NRestarts") or 0),
        status=found.get("StatusText", ""),
        watchdog_s=_span_s(found.get("WatchdogUSec", "")),
        watchdog_age_s=time.clock_gettime(time.CLOCK_MONOTONIC) - last_us / 1e6 if last_us else float("inf"),
        enabled=found.get("UnitFileState", "") in ("enabled", "linked"),
    )


def log_lines(*units: str, lines: int, since: str = "") -> list[str]:
    """The last lines of the log of units, in the order of time.

    Raises:
        DeployError: the journal cannot be read.
    """
    command = ["journalctl", "--no-pager", "--quiet", "--lines", str(lines), "--output", "short-iso"]
    command += [f"--unit={unit}" for unit in units]
    try:
        done = subprocess.run(
            command + (["--since", since] if since else []),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(("journalctl",), str(error)) from error
    return done.stdout.splitlines()


_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def _span_s(text: str) -> float:
    """systemd.time(7)'s "1min 30s"; 0 for "infinity", "0" and nothing."""
    total_s = 0.0
    for part in text.split():
        digits = part.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = part[len(digits) :]
        if digits and unit in _UNITS_S:
            total_s += float(digits) * _UNITS_S[unit]
    return total_s


def _failed(arguments: tuple[str, ...], came: str) -> DeployError:
    return DeployError(
        f"systemctl {' '.join(arguments)[:80]} failed",
        expected="systemd to do it",
        came=came[:500],
        do="look at `systemctl status cxr-edge` and `journalctl -u cxr-edge` on the device",
    )
