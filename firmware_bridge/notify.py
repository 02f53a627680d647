"""Telling systemd how we are: sd_notify(3), which is one datagram to a socket named in the environment."""

from __future__ import annotations

import os
import socket
import time


def notify(state: str) -> None:
    """Send `READY=1`, `STOPPING=1`, ...; nothing happens where no service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # abstract namespace
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            sock.sendall(state.encode())
        except OSError:
            return  # the manager is gone; that is not the agent's to report


def reloading() -> str:
    """What announces a reload. systemd.service(5), Type=notify-reload: the time tells which reload is answered."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def watchdog_s() -> float | None:
    """How often the manager wants to hear of us at least (sd_watchdog_enabled(3)); None: it does not."""
    text = os.environ.get("WATCHDOG_USEC", "")
    if not text.isdigit() or not int(text) or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(text) / 1e6
