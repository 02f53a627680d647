"""The Ansible role and its page: the same variables, a playbook that Ansible reads, commands that exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
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


def play(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ansible-playbook, with the role, in `folder`."""
    program = Path(sys.executable).parent / "ansible-playbook"
    if not program.exists():
        pytest.skip("needs ansible-core: pip install '.[dev]'")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_ROLES_PATH": str(ROLES),
        "ANSIBLE_HOME": str(folder / "ansible"),
    }
    return subprocess.run(
        [program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_ansible_reads_the_playbook_of_the_page(tmp_path: Path) -> None:
    (playbook,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "wards.yml").write_text(playbook)
    variables = yaml.safe_load(playbook)[0]["roles"][0]["vars"]
    assert variables.keys() <= role("meta/argument_specs.yml")["argument_specs"]["main"]["options"].keys()
    done = play(tmp_path, "--syntax-check", "-i", "device,", "wards.yml")
    assert done.returncode == 0, done.stderr
    assert "playbook: wards.yml" in done.stdout


@pytest.mark.parametrize("wish", ["layers/../../secret.txt", "cxr-edge.zip"])
def test_a_device_is_sent_nothing_that_is_not_listed_in_the_folder(wish: str, tmp_path: Path) -> None:
    """The device here is this machine, with a program that wishes for files of whoever runs Ansible."""
    if Path("/opt/cxr-edge/current/app").exists():
        pytest.skip("a cxr-edge is installed here, whose code would be asked")
    folder, staging = tmp_path / "folder", tmp_path / "staging"
    (folder / "layers").mkdir(parents=True)
    staging.mkdir()
    (tmp_path / "secret.txt").write_text("hidden")
    (folder / "folder.json").write_text(json.dumps({"files": {"cxr-edge.zip": "", "layers/../../secret.txt": ""}}))
    (folder / "folder.json.sig").write_text("")
    answer = {"changes": True, "release": "a", "bundle": {"name": "b", "created": "c"}, "runs": "", "needs": [wish]}
    with zipfile.ZipFile(folder / "cxr-edge.zip", "w") as code:
        code.writestr("firmware_bridge/__init__.py", "")
        code.writestr("firmware_bridge/deploy/__init__.py", "")
        told = f"import os, sys\nfound = [n for _, _, names in os.walk({str(staging)!r}) for n in names]\n"
        told += f"print({json.dumps(answer)!r} if '--check' in sys.argv else ' '.join(found))"
        code.writestr("firmware_bridge/deploy/__main__.py", told)
    variables = {"cxr_edge_folder": str(folder), "cxr_edge_staging": str(staging)}
    playbook = [{"hosts": "all", "gather_facts": False, "roles": [{"role": "cxr_edge", "vars": variables}]}]
    (tmp_path / "wards.yml").write_text(yaml.safe_dump(playbook))
    done = play(
        tmp_path,
        "-v",
        "-c",
        "local",
        "-i",
        "device,",
        "-e",
        f"ansible_python_interpreter={sys.executable}",
        "wards.yml",
    )
    if wish == "cxr-edge.zip":
        assert done.returncode == 0, done.stdout
    else:
        assert done.returncode == 2, done.stdout
        assert "asks for files that are not in the folder" in done.stdout
        assert not list(staging.iterdir())
