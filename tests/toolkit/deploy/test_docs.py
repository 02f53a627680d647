"""docs/deploy.md: its commands and files are ones that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from toolkit.cli import main
from toolkit.deploy.inventory import read_inventory
from toolkit.deploy.targets import known_names

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "deploy.md").read_text(encoding="utf-8")
COMMANDS = list(re.findall(r"^cxr-edge .*$", PAGE, re.MULTILINE))


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_parsed_as_it_stands_there(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    words = words[: words.index(">")] if ">" in words else words
    command: click.Command = main.cxr_edge
    context = click.Context(command)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words[0]
        command, words = found, words[1:]
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    known = {name for parameter in command.params for name in parameter.opts}
    assert set(given) <= known
    needed = {p.opts[0] for p in command.params if isinstance(p, click.Option) and p.required}
    assert needed <= set(given)


def test_there_are_commands_and_the_targets_of_the_table_exist() -> None:
    assert len(COMMANDS) >= 8
    named = re.findall(r"`((?:rpi|jetpack|linux)-[a-z0-9-]+)`", PAGE)
    assert named
    assert set(named) <= set(known_names())


def test_the_inventory_of_the_page_can_be_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n# clinic\.toml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "clinic.toml"
    file.write_text(text)
    first, second = read_inventory(file)
    assert first.target == second.target == "rpi"
    assert second.jump == "admin@gate.clinic.example"
    assert first.config["agent"]["device"] == "ward-1"
