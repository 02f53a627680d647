"""docs/deploy.md: its targets and files are ones that exist. (Its commands: tests/docs.)"""

from __future__ import annotations

import re
from pathlib import Path

from toolkit.deploy.inventory import read_inventory
from toolkit.deploy.targets import known_names

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_the_targets_of_the_table_exist() -> None:
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
