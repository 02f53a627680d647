"""A file is whole or not there, whoever stands in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from firmware_bridge.files import sync_folder, write_atomically


def test_the_content_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 255)
    write_atomically(target, b"first")
    write_atomically(target, b"second")
    sync_folder(tmp_path)
    assert target.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [target]


def test_what_does_not_verify_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def refuse(part: Path) -> None:
        assert part.read_bytes() == b"new"
        raise ValueError("not good")

    with pytest.raises(ValueError, match="not good"):
        write_atomically(tmp_path / "a", b"new", verify=refuse)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_links_are_replaced_and_never_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (tmp_path / "a").symlink_to(victim)
    (tmp_path / ".a.tmp").symlink_to(victim)
    write_atomically(tmp_path / "a", b"mine", temporary=tmp_path / ".a.tmp")
    assert victim.read_bytes() == b"untouched"
    assert not (tmp_path / "a").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "victim"]


def test_a_secret_is_secret_from_its_first_byte(tmp_path: Path) -> None:
    seen: list[int] = []
    write_atomically(tmp_path / "key", b"k", mode=0o600, verify=lambda part: seen.append(part.stat().st_mode & 0o777))
    assert seen == [0o600]
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_mode_that_is_given_holds_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "told", b"", mode=0o644)
        write_atomically(tmp_path / "untold", b"")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("told", "untold")] == [0o644, 0o600]
