"""Commands for devices, as they are given: what contradicts itself is refused before anything is done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.firmware_bridge.deploy.described import plain_bundle
from toolkit.cli.hosts import Reach
from toolkit.cli.main import run
from toolkit.deploy.inventory import Host
from toolkit.deploy.since import require_since
from toolkit.keys import make_key

Said = pytest.CaptureFixture[str]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """File of trusted keys; "own.key" beside it is one of them, "old.key" is not."""
    own = make_key(tmp_path / "own.key", name="own", passphrase=None)
    make_key(tmp_path / "old.key", name="old", passphrase=None)
    trusted = tmp_path / "trusted.toml"
    trusted.write_text(own.to_toml())
    return trusted


@pytest.fixture
def bundle(tmp_path: Path, keys: Path) -> Path:
    """A bundle that those devices would trust."""
    return plain_bundle(tmp_path / "b.cxr", key=keys.with_name("own.key"))


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    file = tmp_path / "clinic.toml"
    file.write_text(
        '[hosts.ward-1]\naddress = "127.0.0.1"\nport = 1\n\n[hosts.ward-2]\naddress = "127.0.0.1"\nport = 1\n'
    )
    return file


def refused(said: Said, *words: str, code: int = 2) -> str:
    """What a refused command says."""
    assert run(words) == code
    return said.readouterr().err


def test_the_agent_is_not_measured_here_where_a_host_is_named(samples: Path, capsys: Said) -> None:
    told = refused(capsys, "benchmark", "--agent", "--images", str(samples), "--host", "pi@10.0.0.1")
    assert "--agent measures on this machine" in told


def test_a_bundle_is_no_model_file(samples: Path, bundle: Path, capsys: Said) -> None:
    told = refused(capsys, "benchmark", "--model", str(bundle), "--images", str(samples), "--host", "pi@10.0.0.1")
    assert "a .tflite file" in told
    assert "b.cxr" in told


def stick(bundle: Path, keys: Path, *more: str, key: str = "own.key") -> list[str]:
    words = ["deploy", str(bundle), "--trusted-keys", str(keys), "--key", str(keys.with_name(key))]
    return [*words, "--to-usb", str(keys.with_name("stick")), "--target", "rpi-os-12", *more]


def test_a_stick_signed_by_a_key_that_no_device_trusts_is_not_written(bundle: Path, keys: Path, capsys: Said) -> None:
    told = refused(capsys, *stick(bundle, keys, key="old.key"), code=6)
    assert "no device would take a folder that --key signs" in told
    assert told.count("expected:") == 1
    assert not keys.with_name("stick").exists()


def test_a_stick_has_the_settings_of_one_host(bundle: Path, keys: Path, inventory: Path, capsys: Said) -> None:
    assert "--host NAME" in refused(capsys, *stick(bundle, keys, "--inventory", str(inventory)))
    assert "no host 'ward-9'" in refused(
        capsys, *stick(bundle, keys, "--inventory", str(inventory), "--host", "ward-9")
    )
    assert "--inventory FILE --host NAME" in refused(capsys, *stick(bundle, keys, "--host", "pi@10.0.0.1"))


@pytest.mark.parametrize("option", [["--dry-run"], ["--allow-downgrade"], ["--canary"], ["--wave", "5"], ["--json"]])
def test_what_a_stick_cannot_do_is_not_passed_over(bundle: Path, keys: Path, capsys: Said, option: list[str]) -> None:
    assert f"{option[0]} does not go with --to-usb" in refused(capsys, *stick(bundle, keys, *option))
    assert not keys.with_name("stick").exists()


@pytest.mark.parametrize("wave", ["0%", "-5", "nan%", "200%", "5x", "0", "1e9%"])
def test_a_wave_of_nothing(bundle: Path, keys: Path, inventory: Path, capsys: Said, wave: str) -> None:
    words = ["deploy", str(bundle), "--trusted-keys", str(keys), "--inventory", str(inventory), "--wave", wave]
    assert "--wave cannot be used" in refused(capsys, *words)


def test_uninstall_without_a_terminal_says_what_to_give(inventory: Path) -> None:
    command = [sys.executable, "-m", "toolkit.cli.main", "uninstall", "--inventory", str(inventory)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert "interrupted" not in done.stderr


@pytest.mark.parametrize("since", ["nonsense", "yesterdy", "-1", "--vacuum-time=1s", "2026-13-01", "@x"])
def test_a_moment_that_journalctl_does_not_know(inventory: Path, capsys: Said, since: str) -> None:
    assert "--since" in refused(capsys, "logs", "--inventory", str(inventory), f"--since={since}")


@pytest.mark.parametrize(
    "since",
    ["", "-1h", "-1h 30min", "yesterday", "2 days ago", "2026-11-24", "2026-11-24 08:00", "08:00:01", "@1790000000"],
)
def test_a_moment_that_it_knows(since: str) -> None:
    require_since(since)


def test_a_password_file_is_named_by_its_option(inventory: Path) -> None:
    command = [sys.executable, "-m", "toolkit.cli.main", "status", "--inventory", str(inventory), "--ask-sudo-password"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert "give --sudo-password-file FILE" in done.stderr


def test_a_host_has_its_own_password_for_sudo_where_the_inventory_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").write_text("of ward 1\n")
    monkeypatch.setenv("CXR_EDGE_SUDO_PASSWORD", "of all")
    given: dict[str, object] = dict.fromkeys(Reach.__dataclass_fields__, None)
    password = Reach(**{**given, "ask_sudo_password": False}).password()  # type: ignore[arg-type]
    assert password(Host("ward-1", "x", sudo_password_file=str(tmp_path / "own"))) == "of ward 1"
    assert password(Host("ward-2", "x")) == "of all"
