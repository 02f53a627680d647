"""Private keys that open devices: what is wrong with a file is told before anybody connects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import asyncssh

from firmware_bridge.errors import ConfigError

# Those that OpenSSH and asyncssh try by themselves.
_USUAL = ("id_ed25519", "id_ecdsa", "id_rsa")


def require_key(path: Path) -> None:
    """Whether the key in `path` can be used: as it is, or out of the SSH agent where it has a passphrase.

    Raises:
        ConfigError: no such file, the public half, no key at all, or a passphrase and no agent.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _unusable(
            path, expected="a readable file", came=error.strerror or str(error), do="mend --ssh-key"
        ) from error
    if _is_public(raw):
        do = f"give the private half, usually {path.with_suffix('')}" if path.suffix == ".pub" else "give that half"
        raise _unusable(path, expected="the private half of a key", came="the public half", do=do)
    try:
        asyncssh.import_private_key(raw)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        if not _is_encrypted(error):
            do = "mend --ssh-key; `ssh-keygen -t ed25519` makes a key"
            raise _unusable(
                path, expected="a private key of OpenSSH or in PEM", came=str(error)[:200], do=do
            ) from error
        if not os.environ.get("SSH_AUTH_SOCK"):
            do = f"let the SSH agent hold it: eval $(ssh-agent); ssh-add {path}; then again"
            raise _unusable(
                path, expected="a key without a passphrase, or an SSH agent", came="a passphrase, no agent", do=do
            ) from error


def locked_keys(given: str) -> Iterator[str]:
    """The files that have a passphrase, which only the SSH agent can use: `given`, or the usual ones."""
    for path in [Path(given)] if given else [Path.home() / ".ssh" / name for name in _USUAL]:
        try:
            asyncssh.import_private_key(path.read_bytes())
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            if _is_encrypted(error):
                yield str(path)
        except OSError:
            continue


def _is_public(raw: bytes) -> bool:
    try:
        asyncssh.import_public_key(raw)
    except asyncssh.KeyImportError:
        return False
    return b"PRIVATE KEY" not in raw


def _is_encrypted(error: Exception) -> bool:
    return "passphrase" in str(error).lower()


def _unusable(path: Path, *, expected: str, came: str, do: str) -> ConfigError:
    return ConfigError(f"the SSH key {path} cannot be used", expected=expected, came=came, do=do)
