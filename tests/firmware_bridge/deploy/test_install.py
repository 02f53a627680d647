"""The watched folder is made by root where others may write: what they exchange meanwhile is never changed."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from firmware_bridge.deploy.install import make_watched
from firmware_bridge.deploy.layout import Layout

WATCH = "/srv/ward/xrays"
Exchange = Callable[[Path], None]


@pytest.fixture
def account() -> pwd.struct_passwd:
    """Whose the folder shall be: another user's, where this one may give it away."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "root").mkdir()
    return Layout(tmp_path / "root")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder that whoever meddles would like to have."""
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o700)
    (folder / "shadow").write_text("secret")
    return folder


def owner(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_mode & 0o7777


def test_it_is_made_once_and_the_group_may_put_xrays_in(layout: Layout, account: pwd.struct_passwd) -> None:
    before = os.umask(0o022)
    try:
        assert make_watched(layout, WATCH, account) == [f"folder {WATCH}"]
    finally:
        os.umask(before)
    folder = layout.root / "srv/ward/xrays"
    assert owner(folder) == (account.pw_uid, 0o2775)
    assert owner(folder.parent) == (os.geteuid(), 0o755)
    folder.chmod(0o700)
    assert make_watched(layout, WATCH, account) == []
    assert owner(folder) == (account.pw_uid, 0o700)


def with_a_link(theirs: Path) -> Exchange:
    return lambda made: made.symlink_to(theirs)


def with_their_folder(theirs: Path) -> Exchange:
    return lambda made: theirs.rename(made)


@pytest.mark.parametrize("exchanged", [with_a_link, with_their_folder])
@pytest.mark.parametrize("at", ["ward", "xrays"])
def test_what_is_exchanged_while_it_is_made_is_not_given_away(
    layout: Layout,
    theirs: Path,
    account: pwd.struct_passwd,
    monkeypatch: pytest.MonkeyPatch,
    exchanged: Callable[[Path], Exchange],
    at: str,
) -> None:
    before, put, mkdir = owner(theirs), exchanged(theirs), os.mkdir

    def meddled(name: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        mkdir(name, mode, dir_fd=dir_fd)
        if name == at:  # at the worst moment: it is made, and not opened yet
            made = Path(f"/proc/self/fd/{dir_fd}").readlink() / name
            made.rmdir()
            put(made)

    monkeypatch.setattr(os, "mkdir", meddled)
    if exchanged is with_a_link or at == "xrays":
        with pytest.raises(OSError, match=r"symbolic|Not a directory|exchanged"):
            make_watched(layout, WATCH, account)
    else:
        make_watched(layout, WATCH, account)
    left = theirs if theirs.exists() else layout.root / "srv/ward" / ("" if at == "ward" else "xrays")
    assert owner(left) == before
    assert (left / "shadow").read_text() == "secret"


def test_what_is_exchanged_once_it_is_open_gets_nothing(
    layout: Layout, theirs: Path, account: pwd.struct_passwd, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, fstat = owner(theirs), os.fstat

    def meddled(handle: int) -> os.stat_result:
        made = layout.root / "srv/ward/xrays"
        if not made.is_symlink():
            made.rmdir()
            made.symlink_to(theirs)
        return fstat(handle)

    monkeypatch.setattr(os, "fstat", meddled)
    make_watched(layout, WATCH, account)
    assert owner(theirs) == before
