"""Why an address cannot be listened at: some reasons go away by themselves."""

from __future__ import annotations

import errno

_PASSING = {
    errno.EADDRINUSE: "is taken by another program",
    # At boot the agent can be up before the network is: ip(7), EADDRNOTAVAIL.
    errno.EADDRNOTAVAIL: "is no address of this device now",
}


def not_yet(error: Exception) -> str | None:
    """What to say where it is worth another try later; None where it is not."""
    return _PASSING.get(getattr(error, "errno", None) or 0)
