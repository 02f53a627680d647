"""docs/training.md: its commands have the options that they show, and its TOML files are read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from toolkit.ablate import read_ablation
from toolkit.cli.main import cxr_edge
from toolkit.config import read_config
from toolkit.deployable import why_not_deployable

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^cxr-edge .*$", PAGE, re.M)
TABLES = dict(re.findall(r"```toml\n# (\S+)\n(.*?)```", PAGE, re.S))


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_exists_with_its_options(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "teacher").mkdir(parents=True)  # what must exist for an argument to be taken
    program, *arguments = shlex.split(line)
    assert program == "cxr-edge"
    command: click.Command = cxr_edge
    while isinstance(command, click.Group):
        name = arguments.pop(0)
        found = command.get_command(click.Context(command), name)
        assert found, name
        command = found
    command.make_context("cxr-edge", arguments)  # parses, and runs nothing


def test_the_configuration_is_read_and_deployable(tmp_path: Path) -> None:
    path = tmp_path / "outside.toml"
    path.write_text(TABLES["outside.toml"], encoding="utf-8")
    config = read_config(path, {})
    assert config.augment == "heavy"
    assert not why_not_deployable(config)


def test_the_plan_is_read(tmp_path: Path, samples: Path) -> None:
    (tmp_path / "nih.csv").write_text((samples / "index.csv").read_text(encoding="utf-8"), encoding="utf-8")
    path = tmp_path / "plan.toml"
    path.write_text(TABLES["plan.toml"], encoding="utf-8")
    assert list(read_ablation(path).variants) == ["base", "heavy", "mixup", "averaged"]
