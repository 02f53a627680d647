"""SSH connections, and what their failures mean. The host's key is always checked."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import getpass
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from firmware_bridge.errors import ConfigError, HostError
from toolkit.deploy.answers import printable
from toolkit.deploy.inventory import Host, parse_address
from toolkit.deploy.ssh_key import locked_keys, require_key

_DEFAULT_PORT = 22
_KEEPALIVE_S = 5
# The watched side of a switch may be busy for long; a link that is gone must be noticed all the same.
_KEEPALIVE_MISSES = 3
# The last two: it was there, and went down or restarted in the middle.
_GONE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.ECONNRESET, errno.EPIPE)
# As OpenSSH prefers them: people compare the fingerprint that `ssh` shows as well.
_KEY_KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp521", "rsa-sha2-512", "rsa-sha2-256")


@dataclass(frozen=True, slots=True)
class Access:
    """How this workstation gets in.

    Attributes:
        known_hosts: OpenSSH's file of host keys.
        trust_on_first_use: an unknown host's key is written there, once, and its fingerprint shown.
        keep_trusted: such a key is written down; False: it counts for this connection alone.
        limit_s: for connecting and logging in.
        answer_limit_s: for each answer of a device; 0: what is usual for what was asked.
        say: called with a line for people (the fingerprint that was trusted).
    """

    known_hosts: Path = Path.home() / ".ssh" / "known_hosts"
    trust_on_first_use: bool = False
    keep_trusted: bool = True
    limit_s: float = 15.0
    answer_limit_s: float = 0.0
    say: Callable[[str], None] = lambda _line: None


@asynccontextmanager
async def connected(host: Host, access: Access) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """A connection to `host`, through its jump host where it has one.

    Raises:
        HostError: unreachable, refused, an unknown or a changed key, or it does not let us in.
        ConfigError: our own key or the known hosts cannot be used.
    """
    async with AsyncExitStack() as stack:
        tunnel = None
        if host.jump:
            user, address, port = parse_address(host.jump)
            gate = Host(
                name=f"{host.name} (jump host {host.jump})", address=address, user=user, port=port, key=host.key
            )
            tunnel = await _enter(stack, gate, access, tunnel=None)
        yield await _enter(stack, host, access, tunnel=tunnel)


async def _enter(
    stack: AsyncExitStack, host: Host, access: Access, *, tunnel: asyncssh.SSHClientConnection | None
) -> asyncssh.SSHClientConnection:
    target, port, options = _options(host, tunnel=tunnel)
    known = await _known_keys(host, target, port, access, tunnel=tunnel)
    try:
        connection = await asyncssh.connect(
            target,
            port,
            known_hosts=known,
            connect_timeout=access.limit_s,
            login_timeout=access.limit_s,
            keepalive_interval=_KEEPALIVE_S,
            keepalive_count_max=_KEEPALIVE_MISSES,
            **options,
        )
    except asyncssh.HostKeyNotVerifiable as error:
        # The library says the same of an unknown key, but those were dealt with above: this one is another than known.
        raise await _changed(host, target, port, access, tunnel=tunnel) from error
    except (OSError, asyncssh.Error, asyncio.TimeoutError, UnicodeError) as error:
        raise translated(host, error) from error
    return await stack.enter_async_context(connection)


def _options(host: Host, *, tunnel: Any) -> tuple[str, int, dict[str, Any]]:
    """(address, port, the rest) with what the user's OpenSSH config says about the host."""
    options: dict[str, Any] = {"tunnel": tunnel, "username": host.user or ()}
    if host.key:
        require_key(Path(host.key))
        # The SSH agent's keys are tried in any case; one with a passphrase must be among those.
        options.update(client_keys=[host.key], ignore_encrypted=True)
    settings = asyncssh.SSHClientConnectionOptions(
        host=host.address, port=host.port or (), username=host.user or (), known_hosts=None
    )
    # A packet costs asyncssh half the time in AES-GCM that it costs in ChaCha20, which it would ask for first. The
    # same ciphers in another order: what the user's config leaves out stays out.
    options["encryption_algs"] = sorted(map(bytes.decode, settings.encryption_algs), key=lambda one: "-gcm@" not in one)
    user = host.user or settings.username or getpass.getuser()
    return settings.host or host.address, int(settings.port or _DEFAULT_PORT), {**options, "username": user}


async def _known_keys(host: Host, target: str, port: int, access: Access, *, tunnel: Any) -> Any:
    """What `asyncssh.connect` shall accept: the file, once it says something about this host.

    Raises:
        HostError: the host is unknown, and nobody said that it may be trusted.
        ConfigError: the file cannot be read.
    """
    if _is_known(access.known_hosts, target, port):
        return str(access.known_hosts)
    key = await _offered(host, target, port, access, tunnel=tunnel)
    name = target if port == _DEFAULT_PORT else f"[{target}]:{port}"
    if not access.trust_on_first_use:
        raise HostError(
            f"{host.name}: its host key is not known",
            expected=f"a key for {name} in {access.known_hosts}",
            came=f"{key.get_algorithm()} {key.get_fingerprint()}",
            do="compare this fingerprint with the device's own (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` "
            "there), then give --trust-on-first-use once",
        )
    line = f"{name} {key.export_public_key('openssh').decode().strip()}\n"
    if access.keep_trusted:
        _append(access.known_hosts, line)
    for_now = "" if access.keep_trusted else " (not written down: nothing is changed here either)"
    access.say(f"{host.name}: trusted on first use: {key.get_algorithm()} {key.get_fingerprint()}{for_now}")
    return asyncssh.import_known_hosts(line)


def _is_known(file: Path, target: str, port: int) -> bool:
    """Whether the file says anything about this host.

    Raises:
        ConfigError: it cannot be read.
    """
    if not file.exists():
        return False
    try:
        keys, authorities, *_ = asyncssh.match_known_hosts(str(file), target, "", port)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the known hosts {file} cannot be read",
            expected="a line of OpenSSH's for each host",
            came=getattr(error, "strerror", None) or str(error),
            do="mend that line or the path (--known-hosts)",
        ) from error
    return bool(keys or authorities)


def _append(file: Path, line: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # One write with O_APPEND: two deployments that learn at the same time cannot tear each other's lines.
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size_bytes = os.fstat(handle).st_size
        torn = size_bytes and os.pread(handle, 1, size_bytes - 1) != b"\n"  # an editor left the last line open
        os.write(handle, (b"\n" if torn else b"") + line.encode())
    finally:
        os.close(handle)


async def _offered(host: Host, target: str, port: int, access: Access, *, tunnel: Any) -> asyncssh.SSHKey:
    """The key that the host shows, before anything is entrusted to it."""
    try:
        async with _limit(access.limit_s):
            key = await asyncssh.get_server_host_key(
                target, port, tunnel=tunnel or (), config=None, server_host_key_algs=_KEY_KINDS
            )
    except (OSError, asyncssh.Error, asyncio.TimeoutError, UnicodeError) as error:
        raise translated(host, error) from error
    if key is None:
        raise translated(host, asyncssh.KeyExchangeFailed("it shows no host key"))
    return key


@asynccontextmanager
async def _limit(limit_s: float) -> AsyncIterator[None]:
    """`asyncio.timeout`, which Python 3.10 does not have."""
    task = asyncio.current_task()
    assert task is not None
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(limit_s, expire)
    try:
        yield
    except asyncio.CancelledError:
        if not expired:
            raise
        raise asyncio.TimeoutError from None
    finally:
        timer.cancel()


async def _changed(host: Host, target: str, port: int, access: Access, *, tunnel: Any) -> HostError:
    came = "another one"
    with contextlib.suppress(HostError):
        key = await _offered(host, target, port, access, tunnel=tunnel)
        came = f"{key.get_algorithm()} {key.get_fingerprint()}"
    keys, *_ = asyncssh.match_known_hosts(str(access.known_hosts), target, "", port)
    expected = ", ".join(f"{key.get_algorithm()} {key.get_fingerprint()}" for key in keys)
    name = target if port == _DEFAULT_PORT else f"[{target}]:{port}"
    return HostError(
        f"{host.name}: its host key has changed",
        expected=f"the key in {access.known_hosts}: {expected}",
        came=came,
        do="somebody may be in between. If the device was installed anew, compare the fingerprint there, then remove "
        f"the old key: ssh-keygen -R '{name}' -f {access.known_hosts}",
    )


def translated(host: Host, error: BaseException) -> HostError:
    """What a failure of the connection means, in the words of our error tree."""
    where = f"{host.address}:{host.port or _DEFAULT_PORT}"
    expected, came, do = _meaning(host, error, where)
    return HostError(f"{host.name} cannot be reached", expected=expected, came=printable(came), do=do)


def _meaning(host: Host, error: BaseException, where: str) -> tuple[str, str, str]:
    if isinstance(error, asyncssh.PermissionDenied):
        locked = ", ".join(locked_keys(host.key))
        passed = (
            f"{locked} has a passphrase and was not tried unless the SSH agent holds it (ssh-add); " if locked else ""
        )
        return (
            f"to be let in as {host.user or 'the user of the SSH config'}",
            str(error.reason or error),
            f"{passed}check the user, and that your key stands in its ~/.ssh/authorized_keys; --ssh-key names another",
        )
    if isinstance(error, socket.gaierror):
        return ("a host name that is known", str(error.strerror or error), "mend the name, or give the IP address")
    if isinstance(error, UnicodeError):  # the standard library's IDNA codec, of a label that no name server can have
        return ("a host name of letters, digits and '-'", host.address, "mend the name, or give the IP address")
    if isinstance(error, ConnectionRefusedError):
        return (
            f"an SSH server on {where}",
            "connection refused: the machine is up, and nothing listens there",
            "start sshd on the device (sudo systemctl enable --now ssh), or mend the port",
        )
    # asyncssh raises BrokenPipeError without a number where the other end has closed meanwhile.
    if isinstance(error, (asyncio.TimeoutError, asyncssh.ConnectionLost, BrokenPipeError)) or (
        isinstance(error, OSError) and error.errno in _GONE
    ):
        return (
            f"an answer from {where}",
            str(error) or "none in time",
            "check that the device is on, in this network and not behind a firewall; then give the command again",
        )
    return ("a connection over SSH", f"{type(error).__name__}: {error}", "try `ssh` with the same host; then again")
