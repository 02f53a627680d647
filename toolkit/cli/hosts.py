"""The options that every command for devices has: which ones, and how to get in."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from toolkit.cli.secret import first_line, read_secret
from toolkit.extras import require_modules

Value = TypeVar("Value")
_FILE = click.Path(path_type=Path, dir_okay=False)
_VARIABLE = "CXR_EDGE_SUDO_PASSWORD"


@dataclass(frozen=True)
class Reach:
    """What those options said."""

    hosts: tuple[str, ...]
    inventory: Path | None
    groups: tuple[str, ...]
    ssh_key: Path | None
    jump: str
    known_hosts: Path | None
    trust_on_first_use: bool
    sudo_password_file: Path | None
    ask_sudo_password: bool
    limit_s: float

    @property
    def given(self) -> bool:
        """Whether any device is named at all."""
        return bool(self.hosts or self.inventory or self.groups)

    def chosen(self, **over: Any) -> Sequence[Any]:
        """The hosts. What was given on the command line beats the inventory.

        Raises:
            ConfigError: none, or one that is not known.
            MissingExtraError: what it takes is not installed.
        """
        require_modules("asyncssh", "tomli_w", "uv", extra="deploy")
        from toolkit.deploy.inventory import choose_hosts

        given: dict[str, Any] = {name: value for name, value in over.items() if value}
        if self.ssh_key:
            given["key"] = str(self.ssh_key)
        if self.jump:
            given["jump"] = self.jump
        return [replace(host, **given) for host in choose_hosts(self.hosts, self.inventory, self.groups)]

    def access(self, *, only_looking: bool = False) -> Any:
        """How to get in; `only_looking` writes no host's key down."""
        from toolkit.deploy.ssh import Access

        known: dict[str, Any] = {"known_hosts": self.known_hosts} if self.known_hosts else {}
        return Access(
            trust_on_first_use=self.trust_on_first_use,
            keep_trusted=not only_looking,
            limit_s=self.limit_s,
            say=lambda line: click.echo(line, err=True),
            **known,
        )

    def password(self) -> Callable[[Any], str | None]:
        """sudo's password for a host: its own of the inventory, else the one given here for all of them.

        It is asked for now, before anything is drawn on the terminal.

        Raises:
            ConfigError: it cannot be read.
        """
        secret = read_secret(
            self.sudo_password_file,
            variable=_VARIABLE,
            prompt="Password for sudo",
            ask=self.ask_sudo_password,
            option="--sudo-password-file",
        )

        def of(host: Any) -> str | None:
            own = Path(host.sudo_password_file) if host.sudo_password_file else None
            return first_line(own) if own else secret

        return of


_OPTIONS = (
    click.option("--host", "hosts", multiple=True, help="[user@]host[:port], or a name in the inventory. Repeatable."),
    click.option("--inventory", type=_FILE, envvar="CXR_EDGE_INVENTORY", help="TOML file of devices."),
    click.option("--group", "groups", multiple=True, help="Devices of the inventory in this group. Repeatable."),
    click.option("--ssh-key", type=_FILE, help="Private key. Default: the SSH agent and the usual files."),
    click.option("--jump", default="", help="[user@]host[:port] through which the devices are reached."),
    click.option("--known-hosts", type=_FILE, help="File of host keys. Default: ~/.ssh/known_hosts."),
    click.option(
        "--trust-on-first-use",
        is_flag=True,
        help="Take an unknown host's key, and show its fingerprint. Never a changed.",
    ),
    click.option("--sudo-password-file", type=_FILE, help=f"File with the password for sudo; or set {_VARIABLE}."),
    click.option("--ask-sudo-password", is_flag=True, help="Ask for it."),
    click.option(
        "--connect-limit",
        "limit_s",
        type=click.FloatRange(1, 600),
        default=15.0,
        show_default=True,
        help="Seconds for connecting and logging in.",
    ),
)
_NAMES = tuple(Reach.__dataclass_fields__)


def for_hosts(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command those options; it gets them as one argument `reach`."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **given: Any) -> None:
        reach = Reach(**{name: given.pop(name) for name in _NAMES})
        command(*arguments, reach=reach, **given)

    decorated: Callable[..., None] = wrapped
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def run_async(work: Awaitable[Value]) -> Value:
    """Run it to its end. What asyncssh would log on its own is left out: its errors are ours to tell."""
    import logging

    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)

    async def body() -> Value:
        return await work

    return asyncio.run(body())


def leave(code: int) -> None:
    """End the command with an exit code of its own."""
    if code:
        sys.stdout.flush()
        click.get_current_context().exit(code)
