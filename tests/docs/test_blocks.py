"""Every `cxr-edge` line of README.md and docs/, run or not, is one that this version takes."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from jsonschema import Draft202012Validator

from firmware_bridge.settings import SECTIONS
from tests.docs.blocks import PAGES, Block, blocks, words
from toolkit.cli.commands import COMMANDS, cxr_edge
from toolkit.schema import schema_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ALL = [block for page in PAGES for block in blocks(page)]
LINES = [(block, line) for block in ALL for line in block.commands()]
LANGUAGES = ("sh", "console", "toml", "json", "text", "python", "yaml")


@pytest.fixture
def any_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a page names need not be there for its command to be parsed."""

    def convert(self: click.Path, value: Any, _param: Any, _ctx: Any) -> Any:
        return Path(value) if self.type is Path else value

    monkeypatch.setattr(click.Path, "convert", convert)


def command_of(arguments: list[str], where: str) -> tuple[click.Command, list[str]]:
    command: click.Command = cxr_edge
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        found = command.get_command(click.Context(command), arguments[0])
        assert found, f"{where}: cxr-edge has no {arguments[0]!r}"
        command, arguments = found, arguments[1:]
    return command, arguments


@pytest.mark.usefixtures("any_path")
@pytest.mark.parametrize(("block", "line"), LINES, ids=[f"{block.page}:{block.line}" for block, _ in LINES])
def test_it_parses(block: Block, line: str) -> None:
    where = f"{block.page}:{block.line}: {line}"
    command, arguments = command_of(words(line), where)
    if block.language == "console" and "…" in line:
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in arguments if word.startswith("--")} <= known, where
        return
    with contextlib.suppress(click.exceptions.Exit):  # --version
        command.make_context(command.name, arguments)  # every option, every value; nothing is run


def test_inline_commands_exist_with_their_options() -> None:
    for page in PAGES:
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for text in re.findall(r"`(cxr-edge [a-z][^`]*)`", prose):
            names = [name for name in text.replace("|", " ").split()[1:] if name not in ("COMMAND", "--help")]
            command: click.Command = cxr_edge
            while isinstance(command, click.Group) and names and names[0].islower() and not names[0].startswith("-"):
                found = command.get_command(click.Context(command), names.pop(0))
                assert found, f"{page.name}: {text}"
                command = found
            known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            given = {name.partition("=")[0] for name in names if name.startswith("--")}
            assert given <= known, f"{page.name}: {text}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_blocks_say_what_they_are(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES or block.language.startswith("{"), f"{page.name}:{block.line}: no language"
        if block.language not in ("sh", "console"):
            assert not block.commands(), f"{page.name}:{block.line}: commands stand in sh or console"


def test_every_command_is_named() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in COMMANDS if f"cxr-edge {name}" not in text] == []


def test_examples_of_results_are_right_under_the_schema() -> None:
    found = [json.loads(block.text) for block in ALL if block.page == "result-record.md" and block.language == "json"]
    assert len(found) == 2
    for record in found:
        Draft202012Validator(schema_of("result")).validate(record)


TABLES = [(block, tomllib.loads(block.text)) for block in ALL if block.language == "toml"]
AGENTS = [
    pytest.param(tables, id=f"{block.page}:{block.line}")
    for block, tables in TABLES
    if tables and set(tables) <= set(SECTIONS)
]


@pytest.mark.parametrize("tables", AGENTS)
def test_settings_of_the_agent_are_ones_that_it_takes(tables: dict[str, Any]) -> None:
    Draft202012Validator(schema_of("agent-config")).validate(tables)
