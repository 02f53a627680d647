"""Devices that answer oddly, or never: an error of that device, in time, and nothing of it reaches the terminal raw."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from firmware_bridge.deploy import boot
from firmware_bridge.errors import BundleError, CxrEdgeError, DeployError, HostError
from toolkit.deploy.answers import misfit, printable
from toolkit.deploy.device import at_device
from toolkit.deploy.fleet import Waves, each
from toolkit.deploy.inventory import Host
from toolkit.deploy.ssh import Access

LIMIT_S = 3.0
STOCK = {
    **{"layers": {}, "content": [], "current": None, "activating": None, "releases": [], "proven": [], "newest": {}},
    **{"installed": False, "secrets": {}, "service": {"active": "inactive", "enabled": False, "restarts": 0}},
}
TOLD = {"what": "x", "expected": "x", "came": "x", "do": "x"}
Process = asyncssh.SSHServerProcess[bytes]


class Impostor(asyncssh.SSHServer):
    """Lets everybody in."""

    def begin_auth(self, username: str) -> bool:
        return False


def impostor(
    greeting: bytes = b"", facts: dict[str, Any] | bytes | None = None, answer: Any = None
) -> Callable[[Process], Awaitable[None]]:
    """A device that gets so far: a greeting before our shell, facts (or other bytes), and one answer to each request.

    Bytes are said as they are; None is silence; an answer may depend on the request.
    """

    async def body(process: Process) -> None:
        ready = re.search(r"ready-[0-9a-f]{16}", process.command or "")
        assert ready
        process.stdout.write(greeting + ready[0].encode() + b"\n")
        process.stdout.write(
            facts if isinstance(facts, bytes) else spoken({"facts": {**boot.facts(), **(facts or {})}})
        )
        while line := await process.stdin.readline():
            if line.strip().isdigit():
                await process.stdin.readexactly(int(line))
            elif line.strip() and answer is not None:
                said = answer(line) if callable(answer) else answer
                process.stdout.write(said if isinstance(said, bytes) else spoken(said))

    async def handle(process: Process) -> None:
        # The other end has enough of it in most tests.
        with contextlib.suppress(OSError, asyncssh.Error, asyncio.IncompleteReadError):
            await body(process)

    return handle


def spoken(content: Any) -> bytes:
    return json.dumps(content).encode() + b"\n"


@asynccontextmanager
async def listening(handle: Any, folder: Path, name: str) -> Any:
    """(host, access) of a server with that device behind it."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen(
        *("127.0.0.1", 0), server_host_keys=[key], server_factory=Impostor, process_factory=handle, encoding=None
    )
    port = server.get_port()
    with (folder / "known_hosts").open("ab") as known:
        known.write(f"[127.0.0.1]:{port} ".encode() + key.export_public_key().strip() + b"\n")
    async with server:
        yield Host(name, "127.0.0.1", user="root", port=port)


def ask(handle: Any, folder: Path, do: str = "stock", answer_limit_s: float = LIMIT_S) -> Any:
    """What comes of one request to it."""

    async def body() -> Any:
        access = Access(folder / "known_hosts", answer_limit_s=answer_limit_s)
        async with listening(handle, folder, "box") as host, at_device(host, access, password=lambda: None) as device:
            return await device.request(do, layers={}, secrets=[], every_byte=False)

    return asyncio.run(body())


def test_an_honest_device_is_understood_also_behind_a_greeting_without_a_line_break(tmp_path: Path) -> None:
    assert ask(impostor(greeting=b"Welcome to ward 3! ", answer={"done": STOCK}), tmp_path) == STOCK


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (impostor(facts=b"sitecustomize: hello\n"), "sitecustomize: hello"),
        (impostor(facts=b"[1]\n"), "a table"),
        (impostor(facts=b"[" * 100_000 + b"\n"), "JSON"),
        (impostor(facts=b'{"facts": 3}\n'), "facts as a table"),
        (impostor(facts={"schema": 9}), "facts of schema 1"),
        (impostor(facts={"cpus": "many"}), "facts.cpus as int"),
        (impostor(facts={"cpus": True}), "facts.cpus as int"),
        (impostor(facts={"clock_s": 1e300}), "a clock"),
        (impostor(facts={"python": [3]}), "a Python's version"),
        (impostor(facts={"glibc": "9" * 5000}), "facts of a line"),
        (impostor(answer=[1]), "a table"),
        (impostor(answer={"done": {**STOCK, "content": 7}}), "content as a list"),
        (impostor(answer={"done": {**STOCK, "newest": {"a": None}}}), "newest.a as str"),
        (impostor(answer={"done": {"layers": {}}}), "content"),
        (impostor(answer={"error": "no"}), "an error as a table"),
        (impostor(answer={"progress": 3}), "progress as str"),
    ],
)
def test_an_odd_answer_is_an_error_of_that_device(tmp_path: Path, odd: Any, words: str) -> None:
    with pytest.raises(DeployError, match="box: what the device says makes no sense") as caught:
        ask(odd, tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "raised"),
    [
        ("UnsuitableImage", DeployError),
        ("annotations", DeployError),
        ("Mapping", DeployError),
        ("BundleError", BundleError),
    ],
)
def test_only_an_error_of_four_parts_is_made_again(tmp_path: Path, kind: str, raised: type[CxrEdgeError]) -> None:
    with pytest.raises(CxrEdgeError, match="box: x") as caught:
        ask(impostor(answer={"error": {**TOLD, "kind": kind}}), tmp_path)
    assert type(caught.value) is raised


@pytest.mark.parametrize(
    ("silent", "words"),
    [
        (impostor(facts=b""), "its facts"),
        (impostor(answer=None), "an answer to 'stock'"),
        (impostor(answer=spoken({"progress": "still at it"})), "an answer to 'stock'"),
    ],
)
def test_a_device_that_never_answers_is_given_up(tmp_path: Path, silent: Any, words: str) -> None:
    start_s = time.monotonic()
    with pytest.raises(HostError, match="box: no answer") as caught:
        ask(silent, tmp_path, answer_limit_s=1.0)
    assert words in caught.value.expected
    assert time.monotonic() - start_s < 30  # and nobody waits for it to agree


def test_a_shell_that_waits_for_somebody_is_told_by_its_last_words(tmp_path: Path) -> None:
    async def asking(process: Process) -> None:
        process.stdout.write(b"Choose a kernel [1]: ")
        await process.stdin.read()

    with pytest.raises(HostError, match="login shell does not run our command") as caught:
        ask(asking, tmp_path, answer_limit_s=1.0)
    assert caught.value.came == "Choose a kernel [1]:"


@pytest.mark.parametrize(
    ("do", "words"), [("stock", "deploy again"), ("switch", "`cxr-edge status`"), ("logs", "it only reads")]
)
def test_a_device_that_goes_away_in_the_middle_says_what_to_do_about_that(tmp_path: Path, do: str, words: str) -> None:
    def leave(_request: bytes) -> Any:
        raise OSError

    async def goes(process: Process) -> None:
        await impostor(answer=leave)(process)
        process.exit(1)

    with pytest.raises(HostError, match="lost in the middle") as caught:
        ask(goes, tmp_path, do)
    assert words in caught.value.do


def test_why_sudo_refuses_is_told_in_its_own_words(tmp_path: Path) -> None:
    async def refused(process: Process) -> None:
        process.stderr.write(b"pi is not in the sudoers file.\n")
        process.exit(1)

    with pytest.raises(HostError, match="no way to become root") as caught:
        ask(refused, tmp_path)
    assert caught.value.came == "pi is not in the sudoers file."


def test_a_line_without_an_end_is_cut_off(tmp_path: Path) -> None:
    async def endless(process: Process) -> None:
        with contextlib.suppress(OSError, asyncssh.Error):
            while True:
                process.stdout.write(b"A" * 100_000)
                await process.stdout.drain()

    with pytest.raises(DeployError, match="makes no sense") as caught:
        ask(endless, tmp_path, answer_limit_s=60.0)
    assert "64 MB" in caught.value.came


def test_a_long_honest_line_comes_whole(tmp_path: Path) -> None:
    stock = {**STOCK, "content": [f"{number:064x}" for number in range(80_000)]}  # asyncssh's window is 2 MB
    assert ask(impostor(answer={"done": stock}), tmp_path, answer_limit_s=60.0) == stock


def test_what_steers_a_terminal_does_not_get_through(tmp_path: Path) -> None:
    with pytest.raises(DeployError) as caught:
        ask(impostor(answer={"error": {**TOLD, "came": "\x1b]0;mine\x07 \u202e\x9b2J\r ok"}}), tmp_path)
    assert caught.value.came == "\ufffd]0;mine\ufffd \ufffd\ufffd2J\ufffd ok"
    assert printable("Ärzte\n\t肺") == "Ärzte\n\t肺"


def test_one_odd_device_ends_nobody_elses_deployment(tmp_path: Path) -> None:
    async def body() -> Any:
        access = Access(tmp_path / "known_hosts", answer_limit_s=LIMIT_S)

        async def work(host: Host) -> Any:
            async with at_device(host, access, password=lambda: None) as device:
                return await device.request("stock")

        good, odd = impostor(answer={"done": STOCK}), impostor(facts=b"hello\n")
        async with listening(good, tmp_path, "good") as one, listening(odd, tmp_path, "odd") as other:
            return await each([other, one], work, Waves())

    odd, good = asyncio.run(body())
    assert isinstance(odd.error, DeployError)
    assert odd.bug is None
    assert good.value == STOCK


def test_shapes() -> None:
    assert misfit(2, float, "x") is None
    assert misfit(float("inf"), float, "x")
    assert misfit(None, (None, {"a": int}), "x") is None
    assert misfit({"a": "b"}, (None, {"a": int}), "x") == ("x.a as int", "'b'")
    assert misfit({}, {"a?": int}, "x") is None
    assert misfit({}, {"a": int}, "x") == ("x.a", "nothing of that name")
