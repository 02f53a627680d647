"""What the operating system raises on a device, in the words of our error tree: by whatever way it came."""

from __future__ import annotations

import errno

from firmware_bridge.errors import CxrEdgeError, DeployError, ResourceError


def translated(error: Exception) -> CxrEdgeError:
    """An error that is none of ours, as one that is."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            "the device's disk is full",
            expected="room for the new release beside the old one",
            came=f"no space left ({error.filename or '/opt/cxr-edge'})",
            do="free some space on the device (df -h shows where), then deploy again; what runs there was not touched",
        )
    if isinstance(error, OSError):
        return ResourceError(
            f"{error.filename or 'a file'} cannot be written on the device",
            expected="a disk that can be written",
            came=error.strerror or str(error),
            do="mend that on the device (a worn SD card turns read-only), then deploy again",
        )
    return DeployError(
        "the device's half of the deployment failed",
        expected="no error that nobody foresaw",
        came=f"{type(error).__name__}: {error}",
        do="report it; the device runs what it ran before",
    )
