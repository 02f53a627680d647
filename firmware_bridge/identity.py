"""Who this device is: a secret key, made on the spot, that names images and the device without telling on either."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from firmware_bridge.errors import ConfigError, ResourceError

KEY_NAME = "device.key"
_KEY_BYTES = 32


def load_or_make_key(state: Path) -> bytes:
    """The device key in the folder `state` (32 bytes, file mode 0600); made there, durably, when there is none.

    Raises:
        ConfigError: the file is there but is no key.
        ResourceError: the file can be neither read nor written.
    """
    path = state / KEY_NAME
    try:
        if not path.exists():
            _make(path)
        key = path.read_bytes()
    except OSError as error:
        raise ResourceError(
            f"the device key {path} cannot be read or made",
            expected="a state folder that this user can read and write, with some space",
            came=error.strerror or str(error),
            do="mend the folder, or choose another with --state",
        ) from error
    if len(key) != _KEY_BYTES:
        raise ConfigError(
            f"the device key {path} is damaged",
            expected=f"{_KEY_BYTES} bytes",
            came=f"{len(key)} bytes",
            do="put back the key from a backup, or delete the file: image ids then change",
        )
    return key


def _make(path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, secrets.token_bytes(_KEY_BYTES))
        os.fsync(handle)
    finally:
        os.close(handle)
    temporary.replace(path)


def default_device_name(key: bytes) -> str:
    """A name for this device that holds neither host name nor serial number."""
    return "cxr-" + hmac.new(key, b"device name", hashlib.sha256).hexdigest()[:10]
