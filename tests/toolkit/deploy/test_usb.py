"""A folder for a device without a network: whose settings it has, who signed it, and what does not go onto it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from firmware_bridge.deploy.folder import Folder, check_files, read_folder
from firmware_bridge.deploy.listing import Entry
from firmware_bridge.trust import read_trusted_keys
from toolkit.deploy.code import stick_code
from toolkit.deploy.layer import Layer
from toolkit.keys import make_key

from .sticks import write


def opened(stick: Path) -> Folder:
    folder = read_folder(stick)
    check_files(folder)
    return folder


def test_a_stick_has_the_settings_of_the_host_and_none_of_its_secrets(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stick = write(room, "--inventory", str(room / "clinic.toml"), "--host", "ward-1")
    description = opened(stick).description
    assert description.broker == "broker.clinic.example:8883"
    assert 'device = "ward-1"' in description.config
    assert description.watch == "/srv/ward-1"
    assert "LoadCredential=mqtt-password:" in description.unit
    assert not [file for file in stick.rglob("*") if file.is_file() and b"hunter2" in file.read_bytes()]
    said = capsys.readouterr().out
    assert "clinic.toml, host ward-1" in said
    assert "/etc/cxr-edge/secrets/mqtt-password" in said


def test_only_our_own_layers_make_room_for_new_ones(room: Path) -> None:
    layers = room / "stick" / "layers"
    (layers / "photos").mkdir(parents=True)
    theirs, ours = (
        [layers / "photos", layers / "map.json"],
        [layers / f"{'a' * 64}.json", layers / f"{'a' * 64}.tar.gz"],
    )
    for path in (*theirs[1:], *ours):
        path.write_text("x")
    opened(write(room, "--target", "rpi-os-12"))
    assert [path.exists() for path in (*theirs, *ours)] == [True, True, False, False]


def test_the_key_to_trust_is_the_one_that_signed_the_folder(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stick = write(room, "--target", "rpi-os-12", key="second")
    keys = read_trusted_keys(room / "trusted.toml")
    signer = opened(stick).require_trust(keys)
    assert signer.name == "second"
    assert f"--trust {signer.id}" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to be somebody else")
def test_the_script_on_a_stick_asks_for_root_first(room: Path) -> None:
    stick = write(room, "--target", "rpi-os-12")
    script = (stick / "install").read_bytes()  # pytest's folders are root's alone
    done = subprocess.run(["/bin/sh"], input=script, capture_output=True, user=65534, cwd="/", timeout=60, check=False)
    assert done.returncode == 10
    assert b"only root can install" in done.stderr


def test_trusted_keys_are_read_out_of_the_sticks_own_code_before_anything_is_installed(tmp_path: Path) -> None:
    """As on a device with Python 3.10: `tomli` comes from the stick. Its sources here are those that pip carries."""
    found = PathFinder.find_spec("pip")  # neither imported nor asked for through the hooks: both meddle with distutils
    reader = Path(str(found.origin)).parent / "_vendor" / "tomli" if found else Path("none")
    if not reader.is_dir():
        pytest.skip("no pip here that carries tomli")
    sources: dict[str, Path | bytes] = {f"tomli/{path.name}": path for path in reader.glob("*.py")}
    sources["tomli/_parser.so"] = b"no source"
    site = Layer({name: Entry("", 0) for name in sources}, sources)
    (tmp_path / "code.zip").write_bytes(stick_code(site))
    key = make_key(tmp_path / "own.key", name="own", passphrase=None)
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path / 'code.zip')!r}]; sys.version_info = (3, 10, 12, 'final', 0)\n"
        "from pathlib import Path\n"
        "from firmware_bridge.trust import parse_trusted_keys\n"
        "print(parse_trusted_keys(sys.stdin.buffer.read(), Path('keys'))[0].id, sys.modules['tomli'].__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], input=key.to_toml(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [key.id, str(tmp_path / "code.zip" / "tomli" / "__init__.py")]
