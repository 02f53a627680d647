"""Which keys a device trusts today. What was revoked once stays revoked, whichever release is gone back to.

The list travels with each release; beside them stands what was revoked. Only a deployment over SSH, whose sender is
root here anyway, can trust such a key again, once its release has proven itself.

The agent reads the list of its own release and nothing else. Where a switch that revoked a key was rolled back, that is
the list from before: the agent goes on with the bundle that it has, and would fetch another one that the revoked key
signed. It has no rights to run it: root takes it over (`desired`), asks here, and refuses it.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path

from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.release import SITE, TRUSTED_KEYS, Description, read_json, write_json
from firmware_bridge.errors import ConfigError, SignatureError
from firmware_bridge.trust import TrustedKey, parse_trusted_keys

_REVOKED = "revoked"


def todays_keys(layout: Layout) -> tuple[TrustedKey, ...]:
    """The keys that count now: of the release that runs, less what was revoked since. Empty: nothing runs.

    Raises:
        ConfigError: its list cannot be read.
    """
    file = layout.current / TRUSTED_KEYS
    if not file.is_file():
        return ()
    _find_packages(layout.current)
    revoked = _seen(layout)
    keys = parse_trusted_keys(file.read_bytes(), file)
    return tuple(replace(key, revoked=True) if key.id in revoked else key for key in keys)


def with_todays_keys(layout: Layout, description: Description) -> Description:
    """An older release as it may run today: with the keys of today, and so under another id where these differ.

    Raises:
        ConfigError: see `todays_keys`.
    """
    keys, file = todays_keys(layout), layout.current / TRUSTED_KEYS
    if not keys:
        return description
    text = file.read_text(encoding="utf-8")
    if parse_trusted_keys(text.encode(), file) != keys:
        text = "\n".join(key.to_toml() for key in keys)
    return replace(description, trusted_keys=text)


def note_revoked(layout: Layout, description: Description) -> None:
    """Remember what a release that is about to run revokes, whether it will hold or not.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    _write(layout, _seen(layout).union(key.id for key in _keys_of(layout, description) if key.revoked))


def note_trusted(layout: Layout, description: Description) -> None:
    """Trust again what a release trusts that has proven itself.

    Raises:
        OSError: see `note_revoked`.
    """
    _write(layout, _seen(layout).difference(key.id for key in _keys_of(layout, description) if not key.revoked))


def _keys_of(layout: Layout, description: Description) -> tuple[TrustedKey, ...]:
    """The keys of a release; none where its list cannot be read."""
    with contextlib.suppress(ConfigError):
        _find_packages(layout.release(description.id))
        return parse_trusted_keys(description.trusted_keys.encode(), Path(TRUSTED_KEYS))
    return ()


def forbid_unrevoking(layout: Layout, keys: tuple[TrustedKey, ...]) -> None:
    """Refuse a list that trusts what was revoked here: it was written before.

    Raises:
        SignatureError: it does.
        ConfigError: see `todays_keys`.
    """
    revoked = _seen(layout) | {key.id for key in todays_keys(layout) if key.revoked}
    again = [f"{key.name} ({key.id})" for key in keys if not key.revoked and key.id in revoked]
    if again:
        raise SignatureError(
            "it would trust a key that was revoked here",
            expected="a folder written since, with today's trusted keys",
            came="one that trusts " + ", ".join(again),
            do="write it again with `cxr-edge deploy --to-usb` and today's --trusted-keys",
        )


def _seen(layout: Layout) -> set[str]:
    found = read_json(layout.state).get(_REVOKED, [])
    return {id for id in found if isinstance(id, str)} if isinstance(found, list) else set()


def _write(layout: Layout, revoked: set[str]) -> None:
    if revoked != _seen(layout):
        write_json(layout.state, {**read_json(layout.state), _REVOKED: sorted(revoked)})


def _find_packages(release: Path) -> None:
    """Python before 3.11 reads TOML by a package, which every release has; code that came over SSH has none."""
    if sys.version_info < (3, 11) and str(release / SITE) not in sys.path:
        sys.path.append(str(release / SITE))
