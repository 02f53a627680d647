"""Directives that read the code: `{schema-table} NAME`, a published schema for people, and `{metrics-table}`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from firmware_bridge.metrics import TEXTS, exposition
from toolkit.schema import SCHEMAS, schema_of

Schema = dict[str, Any]


class SchemaTable(SphinxDirective):
    """A section for each object of the schema: its fields, what they may be, and what they mean."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes, from Markdown that is parsed like the page's own."""
        name = self.arguments[0]
        lines = [f"Version {SCHEMAS[name].version}; `cxr-edge schema {name}` prints the schema itself.", ""]
        schema = schema_of(name)
        lines += [schema["description"].replace(*_VARIABLES), ""]
        sections = name == "agent-config"
        for place, part in _objects(schema, "", toml=sections):
            title = f"`[{place}]`" if sections else f"`{place}`"
            lines += ["" if not place else f"{{.schema-place}}\n**{title}**", ""]
            lines += [part["description"], ""] if place and "description" in part else []
            lines += [*_table(part), ""]
        return self.parse_text_to_nodes("\n".join(lines))


# A table has no `x-environment`: its last column ends with the variable.
_VARIABLES = ("x-environment is the variable", "At the end of each meaning stands the variable")


class MetricsTable(SphinxDirective):
    """A table of the metrics that an agent tells when it can tell all of them."""

    def run(self) -> list[nodes.Node]:
        """The nodes, from what the exposition itself says of each metric."""
        lines = ["| metric | kind | |", "|---|---|---|"]
        text = exposition(_SNAPSHOT, {"version": "", **dict.fromkeys(TEXTS, 1)})
        kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
        labels = dict(re.findall(r"^(\w+)\{(.*)\} ", text, re.MULTILINE))
        for name, help in re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE):
            named = ", ".join(f"`{label}`" for label in re.findall(r'(\w+)="', labels.get(name, "")))
            lines.append(f"| `{name}` | {kinds[name]} | {_cell(help)}{f' By {named}.' if named else ''} |")
        return self.parse_text_to_nodes("\n".join(lines))


# An agent with a broker, an audit log, another outbox and a problem: every metric has a value.
_SNAPSHOT: dict[str, Any] = {
    "device": "",
    "bundle": {"id": ""},
    "this_run": {"scored": 1, "positive": 1, "refused": 0},
    "problems": {"disk": ""},
    "broker": {"error": ""},
    "audit": {"lines": 1},
    "outboxes": {"fhir": {"waiting": 0, "parked": 0, "sent": 0}},
}


def _objects(schema: Schema, place: str, *, toml: bool) -> Iterator[tuple[str, Schema]]:
    """Every object that has named fields, the outer ones first; a file of tables has nothing outside of them."""
    if not (toml and not place):
        yield place, schema
    for key, part in schema.get("properties", {}).items():
        inner = part.get("items", part) if part.get("type") == "array" else part
        suffix = "[]" if inner is not part else ""
        name = f"{place}.{key}{suffix}" if place else f"{key}{suffix}"
        for one in inner.get("oneOf", [inner]):
            if one.get("properties"):
                yield from _objects(one, name, toml=toml)


def _table(schema: Schema) -> list[str]:
    properties = schema["properties"]
    variables = any("x-environment" in part for part in properties.values())
    # What one of several forms needs is not optional either; the text above the table tells the forms apart.
    required = [*schema.get("required", []), *(key for form in schema.get("oneOf", []) for key in form["required"])]
    lines = ["| field | what it may be | default | meaning |", "|---|---|---|---|"]
    if not variables:
        lines = ["| field | what it may be | meaning |", "|---|---|---|"]
    for key, part in properties.items():
        optional = "" if key in required or not required else " *(optional)*"
        cells = [f"`{key}`{optional}", _kind(part)]
        text = part.get("description", "")
        if variables:
            cells.append(f"`{json.dumps(part['default'])}`" if "default" in part else "")
            text = f"{text} `{part['x-environment']}`"
        lines.append("| " + " | ".join(_cell(cell) for cell in [*cells, text]) + " |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _kind(part: Schema) -> str:
    if "const" in part:
        return f"`{json.dumps(part['const'])}`"
    if "enum" in part:
        return ", ".join(f"`{json.dumps(value)}`" for value in part["enum"])
    kinds = part["type"] if isinstance(part["type"], list) else [part["type"]]
    words = " or ".join(_WORDS[kind] for kind in kinds)
    if "anyOf" in part:
        return f"{words}: {' or '.join(_range(one) for one in part['anyOf'])}"
    bounds = _range(part)
    return f"{words}, {bounds}" if bounds else words


def _range(part: Schema) -> str:
    low, high = part.get("minimum"), part.get("maximum")
    if "const" in part:
        return f"{part['const']:g}"
    if "exclusiveMinimum" in part:
        return f"above {part['exclusiveMinimum']:g}"
    if low is not None and high is not None:
        return f"{low:.10g} to {high:.10g}"
    if low is not None:
        return f"{low:g} or more"
    return f"at most {high:g}" if high is not None else ""


_WORDS = {
    "array": "list",
    "boolean": "true or false",
    "integer": "whole number",
    "null": "null",
    "number": "number",
    "object": "object",
    "string": "text",
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("schema-table", SchemaTable)
    app.add_directive("metrics-table", MetricsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
