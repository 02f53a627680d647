"""Becoming root at the other end of an SSH connection: as root already, or through sudo and its one question."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
from collections.abc import Callable
from typing import Any

import asyncssh

from firmware_bridge.errors import CxrEdgeError, DeployError, HostError
from toolkit.deploy.answers import Lines, last_words
from toolkit.deploy.inventory import Host

_PYTHON = "/usr/bin/python3"
_LOADER = (
    "import sys;n=int(sys.stdin.buffer.readline());"
    'exec(compile(sys.stdin.buffer.read(n),"boot.py","exec"),{"__name__":"__main__"})'
)
_WORDS_BYTES, _WORDS_LIMIT_S = 4000, 2.0
_SUDO = "let that user use sudo (`sudo usermod -aG sudo USER` on the device), or log in as root"


class Entrance:
    """The command that becomes root and waits for code, and the words by which it is known."""

    def __init__(self) -> None:
        # Of their own for every connection: what is printed there by others, or before, is never taken for them.
        self.ready, self.prompt = f"ready-{secrets.token_hex(8)}", f"password-{secrets.token_hex(8)}:"

    @property
    def command(self) -> str:
        """What is run over there."""
        inner = (
            f"[ -x {_PYTHON} ] || {{ echo no-python; exit 3; }}; echo {self.ready}; "
            f"cd /; exec {_PYTHON} -u -c {shlex.quote(_LOADER)}"
        )
        root = shlex.quote(inner)
        # -k: a password is asked for every time or never, so that it cannot end up as the input of what is run.
        script = (
            f'if [ "$(id -u)" = 0 ]; then exec sh -c {root}; '
            f"elif command -v sudo >/dev/null 2>&1; then LC_ALL=C exec sudo -k -S -p {self.prompt} sh -c {root}; "
            "else echo no-sudo; exit 3; fi"
        )
        return f"exec sh -c {shlex.quote(script)}"


async def become_root(
    host: Host,
    process: asyncssh.SSHClientProcess[bytes],
    lines: Lines,
    entrance: Entrance,
    password: Callable[[], str | None],
    *,
    limit_s: float,
) -> None:
    """Wait until our shell runs as root, and answer sudo's question, once.

    Raises:
        HostError: there is no way, or the shell does not get there in time.
        DeployError: there is no Python.
    """
    asker = asyncio.ensure_future(_answer_sudo(host, process, entrance.prompt, password))
    try:
        await asyncio.wait_for(_until_ready(host, lines, entrance.ready, asker), limit_s)
    except asyncio.TimeoutError as error:
        raise HostError(
            f"{host.name}: its login shell does not run our command",
            expected=f"a shell within {limit_s:g} s",
            came=last_words(bytes(lines.tail)) or "nothing",
            do="look what it starts, asks or waits for at a login without a terminal (~/.bashrc, ~/.profile, "
            "/etc/profile): `ssh HOST true` must end by itself",
        ) from error
    finally:
        asker.cancel()
        with contextlib.suppress(asyncio.CancelledError, CxrEdgeError, OSError, asyncssh.Error):
            await asker


async def _until_ready(host: Host, lines: Lines, ready: str, asker: asyncio.Future[None]) -> None:
    while True:
        reader = asyncio.ensure_future(lines.next())
        waiting: set[asyncio.Future[Any]] = {reader, asker} if not asker.done() else {reader}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if asker.done() and asker.exception() is not None:
                await asker
            raw = await reader
        finally:
            reader.cancel()
        line = raw.decode("utf-8", "replace").strip()
        # Not "equals": a login shell may print a greeting without a line break in front of it.
        if line.endswith(ready):
            return
        if line.endswith("no-python"):
            raise DeployError(
                f"{host.name} has no Python 3",
                expected=f"{_PYTHON}",
                came="there is none",
                do="sudo apt-get install python3 on the device",
            )
        if line.endswith("no-sudo"):
            raise _no_root(host, "there is no sudo", "log in as root, or install sudo for that user")
        if not raw:
            await asyncio.wait({asker}, timeout=_WORDS_LIMIT_S)  # sudo says why on the other stream
            if asker.done():
                await asker
            raise _no_root(host, "the shell ended", _SUDO)


async def _answer_sudo(
    host: Host, process: asyncssh.SSHClientProcess[bytes], prompt: str, password: Callable[[], str | None]
) -> None:
    """Read what sudo says; give the password when it asks. Ends when sudo does.

    Raises:
        HostError: it does not take the password, there is none, or it said something else at its end.
    """
    seen, asked = b"", False
    while piece := await process.stderr.read(1024):
        seen = (seen + piece)[-_WORDS_BYTES:]
        if prompt.encode() not in seen:
            continue
        seen = seen.partition(prompt.encode())[2]
        if asked:
            raise _no_root(host, "sudo does not take the password", "give the right one (--sudo-password-file)")
        secret = password()
        if secret is None:
            raise _no_root(
                host,
                "sudo asks for a password and none is given",
                "give --ask-sudo-password, --sudo-password-file or CXR_EDGE_SUDO_PASSWORD, or allow sudo without one",
            )
        asked = True
        process.stdin.write(secret.encode() + b"\n")
    if said := last_words(seen):
        raise _no_root(host, said, _SUDO)


def _no_root(host: Host, came: str, do: str) -> HostError:
    return HostError(f"{host.name}: no way to become root", expected="root, or sudo", came=came, do=do)
