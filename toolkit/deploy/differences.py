"""How two releases differ beside their bundle: settings, trusted keys, the service's unit, code, packages. Pure.

A release is what `firmware_bridge.deploy.release.Description.shown` gives of it: no secret stands in that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from firmware_bridge.errors import ConfigError
from firmware_bridge.trust import TrustedKey, parse_trusted_keys
from toolkit.deploy.toml import parse_toml

TRUSTED_KEYS = "trusted keys"

Shown = Mapping[str, str]
_LONGEST = 60
_UNREADABLE = "what one of them has cannot be read"
_LAYERS = {"app": ("code", "another version"), "site": ("packages", "others")}


def differences(before: Shown, after: Shown) -> dict[str, str]:
    """What changes from one release to another: "settings", "trusted keys", "service", "code", "packages" -> how.

    What does not change is left out.
    """
    found = {
        "settings": ", ".join(_settings(before["config"], after["config"])),
        TRUSTED_KEYS: ", ".join(_keys(before["trusted_keys"], after["trusted_keys"])),
        "service": ", ".join(_lines(before["unit"], after["unit"])),
        **{name: how for layer, (name, how) in _LAYERS.items() if before[layer] != after[layer]},
    }
    return {name: how for name, how in found.items() if how}


def _settings(before: str, after: str) -> Iterator[str]:
    try:
        old, new = dict(_flat(parse_toml(before))), dict(_flat(parse_toml(after)))
    except ValueError:
        yield _UNREADABLE
        return
    for name in sorted(old.keys() | new.keys()):
        was, will = (_value(table[name]) if name in table else "default" for table in (old, new))
        if was != will:
            yield f"{name} {was} → {will}"


def _flat(tables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """("[section] key", value)."""
    for section, table in tables.items():
        if isinstance(table, Mapping):
            yield from ((f"[{section}] {key}", value) for key, value in table.items())
        else:
            yield section, table


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _keys(before: str, after: str) -> Iterator[str]:
    if before == after:
        return
    try:
        old, new = ({key.id: key for key in parse_trusted_keys(text.encode(), Path())} for text in (before, after))
    except ConfigError:
        yield _UNREADABLE
        return
    for id in sorted(old.keys() | new.keys(), key=lambda id: (old.get(id) or new[id]).name):
        if how := _key(old.get(id), new.get(id)):
            yield f"{(new.get(id) or old[id]).name} ({id[:8]}) {how}"


def _key(old: TrustedKey | None, new: TrustedKey | None) -> str:
    if old is None or new is None:
        return "added" if new else "left out"
    if old.revoked != new.revoked:
        return "revoked" if new.revoked else "trusted again"
    return "" if (old.valid_from, old.valid_until) == (new.valid_from, new.valid_until) else "with other dates"


def _lines(before: str, after: str) -> Iterator[str]:
    """Directives of a unit that come and go; comments are none."""
    old, new = ([line for line in text.splitlines() if line and line[0] not in "#;["] for text in (before, after))
    yield from (f"no {line}" for line in old if line not in new)
    yield from (line for line in new if line not in old)
