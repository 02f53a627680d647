"""JSON Schemas (draft 2020-12) of what others read and write, made from the code's own definitions.

A version is MAJOR.MINOR. MAJOR is the number that the thing itself carries (`schema`), or 1 where it carries none.
MINOR counts what was added since; what was right under an earlier MINOR stays right. `publish.py` keeps the versions.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class Entry:
    """One schema: its version, a line of help, and the module whose `build()` makes it."""

    version: str
    about: str
    module: str


SCHEMAS = {
    "result": Entry(
        "1.0", "A result record: beside the X-ray, over MQTT, in exported JSON lines.", "toolkit.schema.result"
    ),
    "manifest": Entry("1.0", "manifest.json of a bundle.", "toolkit.schema.manifest"),
    "agent-config": Entry("1.2", "The agent's configuration file (TOML).", "toolkit.schema.agent_config"),
    "train-config": Entry("1.0", "The configuration file of training (TOML).", "toolkit.schema.train_config"),
}


def schema_of(name: str) -> Schema:
    """The schema of today's version.

    Args:
        name: a key of `SCHEMAS`.
    """
    entry = SCHEMAS[name]
    head = {"$schema": DIALECT, "$id": f"urn:cxr-edge:schema:{name}:{entry.version}", "title": f"cxr-edge {name}"}
    body: Schema = importlib.import_module(entry.module).build()
    return {**head, **body}
