"""`make schemas`: write today's schemas into docs/schemas, each under its version, and let no published one change.

`published.json` there has the SHA-256 of what each version says, texts for people left out: those may be mended later.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from firmware_bridge.errors import ConfigError
from toolkit.files import write_atomically
from toolkit.schema import SCHEMAS, Schema, schema_of

LOCK = "published.json"
# Keywords that change nothing about what is right. A key of that name inside `properties` is no keyword.
_FOR_PEOPLE = ("title", "description", "default", "examples", "$comment", "x-environment")
_NAMED = ("properties", "$defs")


def text_of(schema: Schema) -> str:
    """A schema as it is printed and stored."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def file_of(name: str, version: str) -> str:
    """The name of the file of a version."""
    return f"{name}-{version}.json"


def digest(schema: Schema) -> str:
    """SHA-256 (hex) of what a schema says, whatever it tells people."""
    return hashlib.sha256(json.dumps(_meaning(schema), sort_keys=True).encode()).hexdigest()


def _meaning(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_meaning(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _meaning(one) for name, one in value.items()} if key in _NAMED else _meaning(value)
        for key, value in schema.items()
        if key not in _FOR_PEOPLE
    }


def publish(folder: Path) -> list[str]:
    """Write every schema of today that is not there as it is.

    Args:
        folder: docs/schemas.

    Returns:
        The names of the files that were written.

    Raises:
        ConfigError: a published version would change; nothing was written.
    """
    lock_file = folder / LOCK
    lock: dict[str, str] = json.loads(lock_file.read_text(encoding="utf-8")) if lock_file.exists() else {}
    texts = {}
    for name, entry in SCHEMAS.items():
        schema, file = schema_of(name), file_of(name, entry.version)
        if lock.setdefault(file, digest(schema)) != digest(schema):
            raise ConfigError(
                f"the schema '{name}' changed, and version {entry.version} of it is published",
                expected="a new version for another content",
                came=f"version {entry.version} still",
                do="raise its MINOR in toolkit/schema/__init__.py (MAJOR where what was right is so no more)",
            )
        texts[file] = text_of(schema)
    texts[LOCK] = json.dumps(lock, indent=1, sort_keys=True) + "\n"
    changed = [file for file, text in texts.items() if not _holds(folder / file, text)]
    for file in changed:
        write_atomically(folder / file, texts[file])
    return changed


def _holds(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    for written in publish(Path(sys.argv[1])):
        click.echo(f"wrote {written}")
