"""The commands of the README and the docs: each is one that this version has, with options that it knows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from toolkit.cli.main import COMMANDS, cxr_edge

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])


def shell_lines(page: Path) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    joined = "".join(blocks).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.startswith("cxr-edge ")]


@pytest.mark.parametrize(("page", "line"), [(page.name, line) for page in PAGES for line in shell_lines(page)])
def test_commands_of_the_documentation_exist(page: str, line: str) -> None:
    words = shlex.split(re.split(r" >>? ", line)[0], comments=True)[1:]
    command: click.Command = cxr_edge
    context = click.Context(command)
    while isinstance(command, click.Group) and not (command.invoke_without_command and words[0].startswith("-")):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{page}: {name} in {line!r}"
        command = found
    # Parses every option and checks its type without running anything.
    command.make_context(command.name or "", words)


def test_readme_or_docs_name_every_command() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in COMMANDS if f"cxr-edge {name}" not in text] == []


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert named <= targets
