"""The Ansible role and its page: the same variables, a playbook that Ansible reads, commands that exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="needs ansible-core: pip install '.[dev]'")
REPOSITORY = Path(__file__).resolve().parents[3]
ROLES = REPOSITORY / "toolkit" / "deploy" / "ansible" / "roles"
PAGE = (REPOSITORY / "docs" / "ansible.md").read_text(encoding="utf-8")


def role(name: str) -> Any:
    return yaml.safe_load((ROLES / "cxr_edge" / name).read_text(encoding="utf-8"))


def test_variables_have_one_meaning_in_specification_defaults_and_page() -> None:
    options = role("meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert role("defaults/main.yml") == {
        name: option["default"] for name, option in options.items() if not option.get("required")
    }
    table = dict(re.findall(r"^\| `(cxr_edge_\w+)` \| `?(.*?)`? \|", PAGE, re.MULTILINE))
    shown = {"needed": None, '""': "", "false": False}
    assert {name: shown.get(text, text) for name, text in table.items()} == {
        name: option.get("default") for name, option in options.items()
    }


def test_ansible_reads_the_playbook_of_the_page(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "ansible-playbook"
    if not program.exists():
        pytest.skip("needs ansible-core: pip install '.[dev]'")
    (playbook,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "wards.yml").write_text(playbook)
    variables = yaml.safe_load(playbook)[0]["roles"][0]["vars"]
    assert variables.keys() <= role("meta/argument_specs.yml")["argument_specs"]["main"]["options"].keys()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_ROLES_PATH": str(ROLES),
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
    }
    done = subprocess.run(
        [program, "--syntax-check", "-i", "device,", "wards.yml"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "playbook: wards.yml" in done.stdout
