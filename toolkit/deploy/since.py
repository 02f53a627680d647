"""Moments as journalctl takes them, checked here: on a device, one that it cannot read shows an empty log."""

from __future__ import annotations

import re
from datetime import date, time

from firmware_bridge.errors import ConfigError

# systemd.time(7), "Parsing Timestamps" and "Parsing Time Spans": what people give, not every corner of it.
_UNIT = r"(?:seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|w|months?|M|years?|y)"
_SPAN = rf"[0-9]+(?:\.[0-9]+)? ?{_UNIT}(?: ?[0-9]+(?:\.[0-9]+)? ?{_UNIT})*"
_RELATIVE = re.compile(rf"now|today|yesterday|tomorrow|[+-]{_SPAN}|{_SPAN} (?:ago|left)|@[0-9]+")
_CLOCK = r"[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?"
_MOMENT = re.compile(rf"(?P<day>[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})?(?:(?:^|[ T])(?P<clock>{_CLOCK}))?(?: ?(?:Z|UTC))?")


def require_since(text: str) -> None:
    """Whether `text` is a moment; empty is none and right.

    Raises:
        ConfigError: it is not.
    """
    if not text or _RELATIVE.fullmatch(text):
        return
    found = _MOMENT.fullmatch(text)
    try:
        if found and (found["day"] or found["clock"]):
            date.fromisoformat(found["day"] or "2026-01-01")
            time.fromisoformat((found["clock"] or "00:00")[:8])
            return
    except ValueError:
        pass  # a month 13: told like any other that is none
    raise ConfigError(
        "--since is no moment",
        expected='"2026-11-24", "2026-11-24 08:00" (the device\'s time), "-1h", "2 days ago", "yesterday"',
        came=text,
        do="mend --since",
    )
