"""Private keys that sign bundles: files that only their owner can read, with a passphrase where one is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from firmware_bridge.errors import ConfigError
from firmware_bridge.trust import TrustedKey
from toolkit.files import storing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_OTHERS = 0o077


def make_key(path: Path, *, name: str, passphrase: bytes | None = None) -> TrustedKey:
    """Make a key and write its private half to `path` (PEM, PKCS #8, mode 0600). Nothing is overwritten.

    Args:
        path: the file.
        name: of the key, for people.
        passphrase: encrypts the file; None: it is only as safe as its place.

    Returns:
        The public half, as a device is told to trust it.

    Raises:
        ConfigError: the file is there already.
        ResourceError: it cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if path.exists() or path.is_symlink():
        raise ConfigError(
            f"{path} is there already",
            expected="a new file for the private key",
            came="a file, which may be the only copy of a key",
            do="choose another --out, or move the old key away",
        )
    key = Ed25519PrivateKey.generate()
    protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    return TrustedKey(name, key.public_key().public_bytes_raw())


def is_encrypted(path: Path) -> bool:
    """Whether a passphrase is needed for the key in `path`.

    Raises:
        ConfigError: the file cannot be read.
    """
    return b"ENCRYPTED" in _read(path)


def read_key(path: Path, *, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        ConfigError: no such file, others may read it, it is no Ed25519 key, or the passphrase is missing or wrong.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _read(path)
    if b"OPENSSH PRIVATE KEY" in pem:
        came = "a key of OpenSSH, which opens machines"
        raise _unusable(path, "a key that signs bundles", came, "make one with `cxr-edge bundle keygen`")
    mode = path.stat().st_mode & 0o777
    if mode & _OTHERS:
        raise _unusable(path, "a file that only its owner can read (0600)", f"mode {mode:04o}", f"chmod 600 {path}")
    try:
        key = load_pem_private_key(pem, passphrase)
    except TypeError as error:  # cryptography's way to say that a passphrase is missing, or one too many
        came = "no passphrase" if passphrase is None else "a passphrase, though the key is not encrypted"
        raise _unusable(path, "the key's passphrase where it has one", came, _PASSPHRASE) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        came = "a wrong passphrase, or a damaged file" if passphrase else str(error)[:200]
        raise _unusable(path, "an Ed25519 key in PEM", came, _PASSPHRASE) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _unusable(path, "an Ed25519 key", type(key).__name__, "make one with `cxr-edge bundle keygen`")
    return key


_PASSPHRASE = "give --passphrase-file or CXR_EDGE_KEY_PASSPHRASE, or answer the prompt"  # noqa: S105


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        came = error.strerror or str(error)
        do = "mend --key, or make a key with `cxr-edge bundle keygen`"
        raise _unusable(path, "a readable private key", came, do) from error


def _unusable(path: Path, expected: str, came: str, do: str) -> ConfigError:
    return ConfigError(f"the private key {path} cannot be used", expected=expected, came=came, do=do)
