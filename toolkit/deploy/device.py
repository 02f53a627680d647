"""One device at the other end of an SSH connection: its facts, and the requests of `firmware_bridge.deploy.serve`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncssh

from firmware_bridge.errors import HostError
from toolkit.deploy.answers import Lines, error_of, last_words, misfit, parse, require_shape, senseless
from toolkit.deploy.code import boot_code, device_code
from toolkit.deploy.facts import Facts, parse_facts
from toolkit.deploy.inventory import Host
from toolkit.deploy.root import Entrance, become_root
from toolkit.deploy.ssh import Access, connected, translated

_READY_LIMIT_S = 60.0
_FACTS_LIMIT_S = 120.0
_STDERR_BYTES = 4000
_ALIVE_S = 5.0
# How long a device may take for an answer, once it has all of the request. Longer than it allows itself
# (`firmware_bridge.deploy`): this is for one that hangs, or never meant to answer.
_LIMIT_S = 900.0
_LIMITS_S = {"commit": 1800.0, "engines": 3600.0, "prove": 2400.0, "prove_earlier": 2400.0, "measure": 4500.0}
# What to do where the connection is lost in the middle of it.
_AGAIN = "deploy again: the device runs what it ran, what arrived is kept"
_AFTER_LOSS = {
    "prove_earlier": "give the command again: the device runs what it ran",
    "switch": "`cxr-edge status` shows what runs: a switch that had begun comes to its end there without us",
    "uninstall": "give the command again: it goes on with what is left",
    "measure": "measure again",
    **dict.fromkeys(("status", "logs"), "give the command again: it only reads"),
}


class Device:
    """A device that answers as root. Made by `at_device`."""

    def __init__(
        self, host: Host, process: asyncssh.SSHClientProcess[bytes], lines: Lines, facts: Facts, *, limit_s: float = 0
    ) -> None:
        self.host, self.facts = host, facts
        self._process, self._lines, self._limit_s = process, lines, limit_s
        self._loaded = False
        self._busy = asyncio.Lock()
        self._sent_s = 0.0

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
            HostError: the connection was lost, or no answer comes.
            DeployError: the answer is none.
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
            self._sent_s = time.monotonic()
            sender = asyncio.ensure_future(self._send(payload))
            try:
                limit_s = _LIMITS_S.get(do, _LIMIT_S) + float(fields.get("watch_s", 0.0))
                return await self._answer(do, progress, self._limit_s or limit_s)
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
            self._sent_s = time.monotonic()

    async def _answer(self, do: str, progress: Callable[[Any], None], limit_s: float) -> Any:
        """Progress does not count as life: a device could say it for ever."""
        kind = int if do == "receive" else str
        while line := await self._line(do, limit_s):
            answer = parse(self.host.name, line)
            if "progress" in answer:
                if wrong := misfit(answer["progress"], kind, "progress"):
                    raise senseless(self.host.name, *wrong)
                progress(answer["progress"])
            elif "error" in answer:
                raise error_of(self.host.name, answer["error"])
            else:
                return require_shape(self.host.name, do, answer.get("done"))
        raise await _lost(self.host, self._process, do=_AFTER_LOSS.get(do, _AGAIN))

    async def _line(self, do: str, limit_s: float) -> bytes:
        reader = asyncio.ensure_future(self._lines.next())
        try:
            while (left_s := self._sent_s + limit_s - time.monotonic()) > 0:
                done, _ = await asyncio.wait({reader}, timeout=left_s)
                if done:
                    return reader.result()
        finally:
            reader.cancel()
        raise HostError(
            f"{self.host.name}: no answer",
            expected=f"an answer to '{do}' within {limit_s:g} s",
            came="none",
            do="look what the device does (top, free, dmesg: a worn SD card, no memory), then again",
        )


async def _lost(host: Host, process: asyncssh.SSHClientProcess[bytes], *, do: str = _AGAIN) -> HostError:
    told = b""
    with contextlib.suppress(OSError, asyncssh.Error, asyncio.TimeoutError):
        told = await asyncio.wait_for(process.stderr.read(_STDERR_BYTES), 2.0)
    return HostError(
        f"{host.name}: the connection was lost in the middle",
        expected="an answer of the device",
        came=last_words(told) or "the connection ended",
        do=do,
    )


@asynccontextmanager
async def at_device(host: Host, access: Access, *, password: Callable[[], str | None]) -> AsyncIterator[Device]:
    """Connect, become root, read the facts.

    Args:
        host: which device.
        access: how to get in.
        password: for sudo; asked only if sudo asks. It goes through standard input, never onto a command line.

    Raises:
        HostError: no connection, no way to become root, or no answer.
        DeployError: no Python 3 there, or facts that cannot be read.
    """
    async with connected(host, access) as connection:
        entrance, limit_s = Entrance(), access.answer_limit_s
        async with _process(host, connection, entrance.command) as process:
            lines = Lines(host.name, process.stdout)
            try:
                await become_root(host, process, lines, entrance, password, limit_s=limit_s or _READY_LIMIT_S)
                facts = await _facts(host, process, lines, limit_s=limit_s or _FACTS_LIMIT_S)
            except (OSError, asyncssh.Error) as error:
                raise translated(host, error) from error
            device = Device(host, process, lines, facts, limit_s=limit_s)
            alive = asyncio.ensure_future(device.keep_alive())
            try:
                yield device
            finally:
                alive.cancel()
            process.stdin.write_eof()


@asynccontextmanager
async def _process(
    host: Host, connection: asyncssh.SSHClientConnection, command: str
) -> AsyncIterator[asyncssh.SSHClientProcess[bytes]]:
    """The command over there. Once anything went wrong nobody waits for the other end to agree that it is over."""
    try:
        process = await connection.create_process(command, encoding=None)
    except (OSError, asyncssh.Error) as error:
        raise translated(host, error) from error
    try:
        async with process:
            yield process
    except BaseException:
        connection.abort()
        raise


async def _facts(host: Host, process: asyncssh.SSHClientProcess[bytes], lines: Lines, *, limit_s: float) -> Facts:
    code = boot_code()
    process.stdin.write(b"%d\n" % len(code) + code)
    try:
        line = await asyncio.wait_for(lines.next(), limit_s)
    except asyncio.TimeoutError as error:
        raise HostError(
            f"{host.name}: no answer",
            expected=f"its facts within {limit_s:g} s",
            came="none",
            do="look whether Python starts there (`sudo /usr/bin/python3 -V`), then deploy again",
        ) from error
    if not line:
        raise await _lost(host, process)
    return parse_facts(host.name, parse(host.name, line).get("facts"))
