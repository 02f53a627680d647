"""One device at the other end of an SSH connection: its facts, and the requests of `firmware_bridge.deploy.serve`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shlex
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncssh

import firmware_bridge.errors
from firmware_bridge.errors import CxrEdgeError, DeployError, HostError
from toolkit.deploy.code import boot_code, device_code
from toolkit.deploy.facts import Facts, parse_facts
from toolkit.deploy.inventory import Host
from toolkit.deploy.ssh import Access, connected, translated

_PYTHON = "/usr/bin/python3"
_LOADER = (
    "import sys;n=int(sys.stdin.buffer.readline());"
    'exec(compile(sys.stdin.buffer.read(n),"boot.py","exec"),{"__name__":"__main__"})'
)
_READY_LIMIT_S = 60.0
_STDERR_BYTES = 4000
_ALIVE_S = 5.0


class Device:
    """A device that answers as root. Made by `at_device`."""

    def __init__(self, host: Host, process: asyncssh.SSHClientProcess[bytes], facts: Facts) -> None:
        self.host, self.facts = host, facts
        self._process = process
        self._loaded = False
        self._busy = asyncio.Lock()

    async def keep_alive(self) -> None:
        """Say that we are still here, as long as there is nothing to ask. Ends when it is cancelled."""
        while True:
            await asyncio.sleep(_ALIVE_S)
            async with self._busy:
                if self._loaded:
                    with contextlib.suppress(OSError, asyncssh.Error):
                        self._process.stdin.write(b"\n")

    async def request(
        self,
        do: str,
        *,
        payload: Iterable[bytes] = (),
        progress: Callable[[Any], None] = lambda _news: None,
        **fields: Any,
    ) -> Any:
        """Ask for one thing and wait for the answer.

        Args:
            do: its name in `firmware_bridge.deploy.serve`.
            payload: bytes that follow the request.
            progress: called with what the device says meanwhile.
            fields: of the request.

        Raises:
            HostError: the connection was lost.
            CxrEdgeError: what the device raised.
        """
        async with self._busy:
            return await self._request(do, payload, progress, fields)

    async def _request(
        self, do: str, payload: Iterable[bytes], progress: Callable[[Any], None], fields: Mapping[str, Any]
    ) -> Any:
        try:
            await self._load()
            self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
            sender = asyncio.ensure_future(self._send(payload))
            try:
                return await self._answer(progress)
            finally:
                sender.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError, asyncssh.Error):
                    await sender
        except (OSError, asyncssh.Error) as error:
            raise translated(self.host, error) from error

    async def _load(self) -> None:
        if not self._loaded:
            code = device_code()
            self._process.stdin.write(b"%d\n" % len(code) + code)
            self._loaded = True

    async def _send(self, payload: Iterable[bytes]) -> None:
        for piece in payload:
            self._process.stdin.write(piece)
            await self._process.stdin.drain()

    async def _answer(self, progress: Callable[[Any], None]) -> Any:
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            if "progress" in answer:
                progress(answer["progress"])
            elif "error" in answer:
                raise _error_of(self.host, answer["error"])
            else:
                return answer["done"]
        raise await _lost(self.host, self._process)


def _error_of(host: Host, told: Mapping[str, str]) -> CxrEdgeError:
    kind = getattr(firmware_bridge.errors, told.get("kind", ""), DeployError)
    assert issubclass(kind, CxrEdgeError)
    error: CxrEdgeError = kind(
        f"{host.name}: {told['what']}", expected=told["expected"], came=told["came"], do=told["do"]
    )
    return error


async def _lost(host: Host, process: asyncssh.SSHClientProcess[bytes]) -> HostError:
    told = b""
    with contextlib.suppress(OSError, asyncssh.Error, asyncio.TimeoutError):
        told = await asyncio.wait_for(process.stderr.read(_STDERR_BYTES), 2.0)
    last = told.decode("utf-8", "replace").strip().splitlines()[-1:] or ["the connection ended"]
    return HostError(
        f"{host.name}: the connection was lost in the middle",
        expected="an answer of the device",
        came=last[0],
        do="deploy again: the device runs what it ran, what arrived is kept",
    )


@asynccontextmanager
async def at_device(host: Host, access: Access, *, password: Callable[[], str | None]) -> AsyncIterator[Device]:
    """Connect, become root, read the facts.

    Args:
        host: which device.
        access: how to get in.
        password: for sudo; asked only if sudo asks. It goes through standard input, never onto a command line.

    Raises:
        HostError: no connection, or no way to become root.
        DeployError: no Python 3 there, or facts that cannot be read.
    """
    async with connected(host, access) as connection:
        ready, prompt = f"ready-{secrets.token_hex(8)}", f"password-{secrets.token_hex(8)}:"
        async with connection.create_process(_command(ready, prompt), encoding=None) as process:
            try:
                await asyncio.wait_for(_become_root(host, process, ready, prompt, password), _READY_LIMIT_S)
                code = boot_code()
                process.stdin.write(b"%d\n" % len(code) + code)
                line = await process.stdout.readline()
            except (OSError, asyncssh.Error, asyncio.TimeoutError) as error:
                raise translated(host, error) from error
            if not line:
                raise await _lost(host, process)
            device = Device(host, process, parse_facts(json.loads(line).get("facts")))
            alive = asyncio.ensure_future(device.keep_alive())
            try:
                yield device
            finally:
                alive.cancel()
            process.stdin.write_eof()


def _command(ready: str, prompt: str) -> str:
    inner = (
        f"[ -x {_PYTHON} ] || {{ echo no-python; exit 3; }}; echo {ready}; "
        f"cd /; exec {_PYTHON} -u -c {shlex.quote(_LOADER)}"
    )
    root = shlex.quote(inner)
    # -k: a password is asked for every time or never, so that it cannot end up as the input of what is run.
    script = (
        f'if [ "$(id -u)" = 0 ]; then exec sh -c {root}; '
        f"elif command -v sudo >/dev/null 2>&1; then LC_ALL=C exec sudo -k -S -p {prompt} sh -c {root}; "
        "else echo no-sudo; exit 3; fi"
    )
    return f"exec sh -c {shlex.quote(script)}"


async def _become_root(
    host: Host,
    process: asyncssh.SSHClientProcess[bytes],
    ready: str,
    prompt: str,
    password: Callable[[], str | None],
) -> None:
    """Wait until our shell runs as root, and answer sudo's question, once.

    Raises:
        HostError: there is no way.
        DeployError: there is no Python.
    """
    asker = asyncio.ensure_future(_answer_sudo(host, process, prompt, password))
    try:
        while True:
            reader = asyncio.ensure_future(process.stdout.readline())
            waiting: set[asyncio.Future[Any]] = {reader, asker} if not asker.done() else {reader}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if asker.done() and asker.exception() is not None:
                reader.cancel()
                await asker
            line = (await reader).decode("utf-8", "replace").strip()
            if line == ready:
                return
            if line == "no-python":
                raise DeployError(
                    f"{host.name} has no Python 3",
                    expected=f"{_PYTHON}",
                    came="there is none",
                    do="sudo apt-get install python3 on the device",
                )
            if line == "no-sudo":
                raise _no_root(host, "there is no sudo", "log in as root, or install sudo for that user")
            if reader.done() and process.stdout.at_eof():
                said = await asker if asker.done() else ""
                raise _no_root(host, said or "the shell ended", _SUDO)
    finally:
        asker.cancel()
        with contextlib.suppress(asyncio.CancelledError, CxrEdgeError, OSError, asyncssh.Error):
            await asker


_SUDO = "let that user use sudo (`sudo usermod -aG sudo USER` on the device), or log in as root"


async def _answer_sudo(
    host: Host, process: asyncssh.SSHClientProcess[bytes], prompt: str, password: Callable[[], str | None]
) -> str:
    """Read what sudo says; give the password when it asks. Ends when sudo does, with its last words."""
    seen, asked = "", False
    while piece := await process.stderr.read(1024):
        seen += piece.decode("utf-8", "replace")
        if prompt not in seen:
            continue
        seen = seen.partition(prompt)[2]
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
    lines = seen.strip().splitlines()
    if lines:
        raise _no_root(host, lines[-1], _SUDO)
    return ""


def _no_root(host: Host, came: str, do: str) -> HostError:
    return HostError(f"{host.name}: no way to become root", expected="root, or sudo", came=came, do=do)
