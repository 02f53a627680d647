"""Where the MQTT broker is and how it knows us: the address, and the files with password and certificates."""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from firmware_bridge.errors import ConfigError

if TYPE_CHECKING:
    import ssl

_LOG = logging.getLogger(__name__)
PASSWORD_VARIABLE = "CXR_EDGE_MQTT_PASSWORD"  # noqa: S105 - the name of a variable, not a password
_MAX_PREFIX_BYTES = 1000  # a topic has 65,535 at most (MQTT 5.0, 1.5.4), and the device's name follows


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is, and how it knows us. `prefix` is the first part of every topic."""

    host: str
    port: int
    tls: bool = False
    username: str = ""
    password: str = field(default="", repr=False)
    prefix: str = "cxr-edge"
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def where(self) -> str:
        """Host and port, for messages."""
        return f"{self.host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext:
        """What a TLS connection is made with: the broker's certificate and its host name are checked, always.

        Raises:
            OSError: a file is not there, or is not what it should be (ssl.SSLError is one).
        """
        import ssl

        context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        if self.cert_file is not None:
            # Without a password here, OpenSSL would ask for that of an encrypted key on the terminal, and wait.
            context.load_cert_chain(self.cert_file, self.key_file, password="")
        return context


def parse_broker(
    url: str,
    *,
    password_file: Path | None = None,
    ca_file: Path | None = None,
    cert_file: Path | None = None,
    key_file: Path | None = None,
) -> Broker:
    """Read `mqtt://[user@]host[:port][/topic/prefix]`; `mqtts` is TLS.

    The password comes from a file or from the environment (CXR_EDGE_MQTT_PASSWORD), never from the URL: command lines
    are readable by every user of a machine.

    Args:
        url: the address.
        password_file: its first line is the password.
        ca_file: certificates (PEM) that the broker's must come from; None: those that the system trusts.
        cert_file: our own certificate (PEM), where the broker asks for one.
        key_file: its key (PEM, not encrypted); None: in `cert_file`.

    Raises:
        ConfigError: anything else; a file that is missing, is not what it should be, or does not fit.
    """
    try:
        parts = urlsplit(url)
        password, port = parts.password, parts.port
    except ValueError:
        # Neither the address nor what Python says of it is shown: a password with '/', '#' or '?' looks like a port.
        raise _wrong_address("an address that cannot be taken apart") from None
    if password is not None:
        raise ConfigError(
            "the MQTT address holds a password",
            expected="the password in a file or in the environment",
            came="user:password@ in the address",
            do=f"put it into a file and name that with --mqtt-password-file, or set {PASSWORD_VARIABLE}",
        )
    # An empty query or fragment leaves no trace in the parts; "#" is also what a wildcard would be.
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or "?" in url or "#" in url:
        raise _wrong_address("another scheme, no host, or a '?' or '#'")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise _wrong_address("a host name that no name server can have (empty or over 63 letters)") from None
    broker = Broker(
        host=parts.hostname,
        port=port or (8883 if parts.scheme == "mqtts" else 1883),
        tls=parts.scheme == "mqtts",
        username=unquote(parts.username or ""),
        password=_password(password_file),
        prefix=_prefix(parts.path),
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )
    _check_tls(broker)
    return broker


def _wrong_address(came: str) -> ConfigError:
    return ConfigError(
        "the MQTT address is wrong",
        expected="mqtt://[user@]host[:port][/prefix] or mqtts://...",
        came=came,
        do=f"mend --mqtt; a password goes into a file (--mqtt-password-file) or into {PASSWORD_VARIABLE}",
    )


def _prefix(path: str) -> str:
    """The first part of every topic, from the path of the address."""
    prefix = unquote(path).strip("/") or "cxr-edge"
    if any(letter in prefix for letter in "+#") or prefix.startswith("$") or not prefix.isprintable():
        came = repr(prefix)[:80]
        raise ConfigError("the topic prefix is wrong", expected="no '+', '#' or '$'", came=came, do="mend --mqtt")
    if len(prefix.encode()) > _MAX_PREFIX_BYTES:
        raise ConfigError(
            "the topic prefix is too long",
            expected=f"at most {_MAX_PREFIX_BYTES} bytes",
            came=f"{len(prefix.encode())} bytes",
            do="mend --mqtt",
        )
    return prefix


def _check_tls(broker: Broker) -> None:
    """Files that do not fit would otherwise look like a broker that is away, and be tried for ever."""
    files = {"--mqtt-ca": broker.ca_file, "--mqtt-cert": broker.cert_file, "--mqtt-key": broker.key_file}
    named = [option for option, file in files.items() if file is not None]
    if not named:
        return
    if not broker.tls:
        raise ConfigError(
            f"{named[0]} without TLS", expected="an address with mqtts://", came="mqtt://", do="mend --mqtt"
        )
    if broker.key_file is not None and broker.cert_file is None:
        raise ConfigError(
            "a key without its certificate", expected="--mqtt-cert", came="--mqtt-key alone", do="name both"
        )
    for option, file in files.items():
        if file is not None:
            _check_readable(option, file)
    try:
        broker.tls_context()
    except OSError as error:
        raise ConfigError(
            "the TLS files for MQTT cannot be used",
            expected="PEM files: CA, certificate, and its key, which is not encrypted",
            came=str(error),
            do=f"mend {' or '.join(named)}",
        ) from error


def _check_readable(option: str, file: Path) -> None:
    try:
        with file.open("rb") as opened:
            opened.read(1)
    except OSError as error:
        kind = {"--mqtt-ca": "CA", "--mqtt-cert": "certificate", "--mqtt-key": "key"}[option]
        raise ConfigError(
            f"the {kind} file {file} cannot be read",
            expected="a PEM file",
            came=error.strerror or str(error),
            do=f"mend {option}",
        ) from error


def warn_of_open_secrets(*files: Path | None) -> list[Path]:
    """Those of the files with secrets that others than their owner and group may read; each is logged as a warning."""
    open_to_all = []
    for file in files:
        # What cannot be looked at is told where it is read.
        try:
            readable = file is not None and bool(file.stat().st_mode & stat.S_IROTH)
        except OSError:
            continue
        if file is not None and readable:
            open_to_all.append(file)
            _LOG.warning("%s holds a secret and every user of this machine can read it: chmod o= %s", file, file)
    return open_to_all


def _password(file: Path | None) -> str:
    if file is None:
        return os.environ.get(PASSWORD_VARIABLE, "")
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the password file {file} cannot be read",
            expected="a text file with the password on its first line",
            came=getattr(error, "strerror", None) or str(error),
            do="mend --mqtt-password-file",
        ) from error
