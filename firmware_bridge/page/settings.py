"""The section [page], and what it allows."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from firmware_bridge.errors import ConfigError
from firmware_bridge.settings import setting

_LEAST_TOKEN = 16


@dataclass(frozen=True, slots=True)
class PageSettings:
    """See each key's help."""

    SECTION: ClassVar[str] = "page"
    enabled: bool = setting(True, "Serve the page; the section alone turns it on.")
    bind: str = setting("127.0.0.1", "Address to listen at. Other than loopback: token_file is needed.")
    port: int = setting(8480, "TCP port.", least=1, most=65535)
    token_file: Path | None = setting(None, "File whose first line is the token that people log in with.")
    hosts: tuple[str, ...] = setting((), "Names by which browsers reach the page, besides localhost and `bind`.")
    behind_tls: bool = setting(False, "A proxy in front speaks HTTPS: the login cookie is then for HTTPS alone.")


def is_loopback(bind: str) -> bool:
    """Whether nobody outside the device can reach that address.

    Raises:
        ConfigError: it is no address.
    """
    if bind == "localhost":
        return True
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError as error:
        raise ConfigError(
            "the page cannot listen there",
            expected="an IP address of this device, such as 127.0.0.1 or 0.0.0.0",
            came=repr(bind),
            do="mend `bind` in [page]",
        ) from error


def read_token(settings: PageSettings) -> str:
    """The token, or an empty text where none is needed.

    Raises:
        ConfigError: it is needed and missing, cannot be read, or is too short to be safe.
    """
    if settings.token_file is None:
        if is_loopback(settings.bind):
            return ""
        raise ConfigError(
            f"the page would be open to everybody who reaches {settings.bind}",
            expected="token_file in [page], unless bind is loopback",
            came="no token_file",
            do="head -c 24 /dev/urandom | base64 > page-token, and name that file",
        )
    try:
        token = settings.token_file.read_text(encoding="utf-8").split("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the page's token file {settings.token_file} cannot be read",
            expected="a text file",
            came=getattr(error, "strerror", None) or "no text",
            do="mend token_file in [page]",
        ) from error
    if len(token) < _LEAST_TOKEN:
        raise ConfigError(
            f"the token in {settings.token_file} is too short",
            expected=f"at least {_LEAST_TOKEN} characters",
            came=f"{len(token)}",
            do="head -c 24 /dev/urandom | base64 > page-token, and name that file",
        )
    return token


def allowed_hosts(settings: PageSettings) -> frozenset[str]:
    """What a request's Host may name. Any other name is how a foreign page gets at this one (DNS rebinding)."""
    names = {"localhost", "127.0.0.1", "[::1]", *(host.lower() for host in settings.hosts)}
    if settings.bind not in ("0.0.0.0", "::"):  # noqa: S104, asked, not listened at
        names.add(f"[{settings.bind}]" if ":" in settings.bind else settings.bind)
    return frozenset(names)
