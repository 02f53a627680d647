"""Who this device is: a secret key, made on the spot, that names images and the device without telling on either."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

from firmware_bridge.errors import ConfigError, ResourceError
from firmware_bridge.files import sync_folder, write_atomically

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
            write_atomically(path, secrets.token_bytes(_KEY_BYTES), mode=0o600)
            sync_folder(state)
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


def default_device_name(key: bytes) -> str:
    """A name for this device that holds neither host name nor serial number."""
    return "cxr-" + hmac.new(key, b"device name", hashlib.sha256).hexdigest()[:10]
