"""A stick on a device: what is refused leaves nothing there, and is told once. Installed for real: tests/devices."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.deploy import boot, folder_install, folder_trust, install
from firmware_bridge.deploy.folder import CONTENT, SIGNATURE, read_folder
from firmware_bridge.deploy.folder_install import install_folder
from firmware_bridge.deploy.history import remember
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.release import write_release
from firmware_bridge.errors import ConfigError, CxrEdgeError, DeployError, DowngradeError, SignatureError
from firmware_bridge.signing import FOLDER_CONTEXT, dump_signatures, sign
from firmware_bridge.trust import read_trusted_keys
from tests.firmware_bridge.deploy.described import DESCRIPTION, layered
from toolkit.keys import make_key, read_key

from .sticks import write


@pytest.fixture
def stick(room: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stick for the kind of device that this machine passes for; a device's Python is the one of the tests."""
    stick = write(room, "--target", "rpi-os-12")
    needs = read_folder(stick).needs
    python = tuple(map(int, needs["python"].split(".")))
    facts = {**boot.facts(), "machine": needs["machine"], "python": python, "glibc": needs["glibc"]}
    monkeypatch.setattr(boot, "facts", lambda: {**facts, "systemd": "252", "uid": 0})
    for module in (install, folder_trust):
        monkeypatch.setattr(module, "PYTHON", sys.executable)
    return stick


def installed(stick: Path, layout: Layout, *, key: str = "own", allow_downgrade: bool = False) -> str:
    trust = next(one.id for one in read_trusted_keys(stick.with_name("trusted.toml")) if one.name == key)
    return install_folder(layout, stick, trust=trust, allow_downgrade=allow_downgrade, say=lambda _line: None)


def by_a_stranger(stick: Path) -> None:
    make_key(stick.with_name("stranger.key"), name="stranger", passphrase=None)
    key = read_key(stick.with_name("stranger.key"), passphrase=None)
    signature = sign((stick / CONTENT).read_bytes(), key, context=FOLDER_CONTEXT)
    (stick / SIGNATURE).write_bytes(dump_signatures([signature]))


def with_other_bytes(stick: Path) -> None:
    packed = max((stick / "layers").glob("*.tar.gz"), key=lambda path: path.stat().st_size)
    packed.write_bytes(packed.read_bytes()[:-1] + b"x")


REFUSED = [
    (by_a_stranger, SignatureError, "is not known here"),
    (with_other_bytes, DeployError, "another file"),
]


@pytest.mark.parametrize(("change", "kind", "words"), REFUSED)
def test_a_first_stick_that_is_refused_leaves_nothing_and_says_why_once(
    stick: Path, change: Callable[[Path], None], kind: type[CxrEdgeError], words: str
) -> None:
    change(stick)
    layout = Layout(stick.with_name("device"))
    with pytest.raises(kind, match=words) as caught:
        installed(stick, layout)
    assert not layout.base.exists()
    told = str(caught.value)
    assert (told.count("expected:"), told.count("do:"), told.count("error:")) == (1, 1, 0)


def test_a_refused_stick_takes_nothing_along_that_was_there_before(stick: Path) -> None:
    by_a_stranger(stick)
    layout = layered(stick.with_name("device"), "a")
    before = sorted(layout.base.rglob("*"))
    with pytest.raises(SignatureError):
        installed(stick, layout)
    assert sorted(layout.base.rglob("*")) == before


def test_code_on_a_stick_that_gives_no_answer_is_refused_as_well(stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_trust, "PYTHON", "/bin/false")
    with pytest.raises(SignatureError, match="cannot be checked") as caught:
        installed(stick, Layout(stick.with_name("device")))
    assert caught.value.came == "exit code 1"


def test_a_secret_that_the_settings_need_is_asked_for_before_anything_is_done(
    room: Path, stick: Path, tmp_path: Path
) -> None:
    (room / "password").write_text("secret")
    shutil.rmtree(stick)
    (room / "agent.toml").write_text('[mqtt]\nurl = "mqtt://edge@broker"\n')
    more = ("--config", str(room / "agent.toml"), "--mqtt-password-file", str(room / "password"))
    write(room, "--target", "rpi-os-12", *more)
    layout = Layout(tmp_path / "device")
    with pytest.raises(ConfigError, match=r"secret mqtt-password[\s\S]*/etc/cxr-edge/secrets/mqtt-password") as caught:
        installed(stick, layout)
    assert str(tmp_path) not in str(caught.value)
    assert not layout.base.exists()


def test_a_newer_bundle_that_came_while_the_lock_was_waited_for_is_not_replaced(
    stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layered(stick.with_name("device"))
    newer = replace(DESCRIPTION, bundle={**DESCRIPTION.bundle, "created": "2099-01-01T00:00:00Z"})
    locked = folder_install.settled_and_locked

    @contextlib.contextmanager
    def after_somebody_else(layout: Layout, *, wait_s: float) -> Iterator[bool]:
        write_release(layout, newer)
        remember(layout, newer)
        with locked(layout, wait_s=wait_s) as waited:
            yield waited

    monkeypatch.setattr(folder_install, "settled_and_locked", after_somebody_else)
    with pytest.raises(DowngradeError, match="older than what ran here"):
        installed(stick, layout)
