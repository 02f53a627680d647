"""Every form that a result, a manifest or a configuration has had: right under today's schema, and read today."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from firmware_bridge.journal import Arrival, Journal, Outcome
from firmware_bridge.manifest_parse import parse_manifest
from firmware_bridge.results_export import Choice, export_lines
from firmware_bridge.settings import load_settings, section_kind
from toolkit.config import read_config
from toolkit.schema import SCHEMAS, schema_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parents[2] / "data" / "schemas"
EXAMPLES = sorted(path for path in FOLDER.glob("*/*/*") if path.suffix in (".json", ".toml"))


def content(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)


@pytest.mark.parametrize("name", SCHEMAS)
def test_there_are_examples_of_every_major_version(name: str) -> None:
    major = int(SCHEMAS[name].version.partition(".")[0])
    assert {path.parent.name for path in EXAMPLES if path.parts[-3] == name} == {str(one + 1) for one in range(major)}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: "/".join(path.parts[-3:]))
def test_it_is_right_under_the_schema_of_today(path: Path) -> None:
    Draft202012Validator(schema_of(path.parts[-3])).validate(content(path))


def result(path: Path, folder: Path) -> None:
    """Kept in a journal of today, and exported from it, as CSV and to the byte."""
    record = path.read_text(encoding="utf-8").rstrip("\n")
    id = json.loads(record)["id"]
    journal = Journal(folder / "state")
    (row,) = journal.take([Arrival(folder / "a.jpg", "a" * 64, 10, 20)])
    journal.settle([Outcome(row.seq, row.path, id, record)])
    journal.close()
    assert list(export_lines(folder / "state", form="jsonl", choice=Choice())) == [f"{record}\n"]
    header, row = export_lines(folder / "state", form="csv", choice=Choice())
    assert header.startswith("id,")
    assert row.startswith(id)


def manifest(path: Path, _folder: Path) -> None:
    raw = path.read_bytes()
    assert parse_manifest(raw).to_json() == json.loads(raw)


def agent_config(path: Path, _folder: Path) -> None:
    settings = load_settings(path, environment={})
    for name in content(path):
        settings.section(section_kind(name))


def train_config(path: Path, _folder: Path) -> None:
    read_config(path, {})


READERS: dict[str, Callable[[Path, Path], None]] = {
    "result": result,
    "manifest": manifest,
    "agent-config": agent_config,
    "train-config": train_config,
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: "/".join(path.parts[-3:]))
def test_the_readers_of_today_read_it(path: Path, tmp_path: Path) -> None:
    READERS[path.parts[-3]](path, tmp_path)
