"""The JSON beside an X-ray, the device's identity, and reading a file once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from firmware_bridge.beside import is_taken_name, is_taken_path, json_path, write_beside
from firmware_bridge.errors import ConfigError
from firmware_bridge.identity import default_device_name, load_or_make_key
from firmware_bridge.reading import NoFile, read_file
from firmware_bridge.result import image_id, result_id


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.dcm", "a b.png", "a.json", "x.tmp.jpg"])
def test_names_that_are_taken(name: str) -> None:
    assert is_taken_name(name)


@pytest.mark.parametrize(
    "name", [".a.jpg", "a.jpg.cxr.json", "a.part", "a.jpg.CRDOWNLOAD", "a~", "a.tmp", "Thumbs.db", "desktop.ini"]
)
def test_names_that_are_not(name: str) -> None:
    assert not is_taken_name(name)
    assert not is_taken_path(Path("sub") / name)


def test_hidden_folders_are_not_looked_into() -> None:
    assert not is_taken_path(Path(".snapshot/a.jpg"))


def test_long_names_stay_apart(tmp_path: Path) -> None:
    one, two = tmp_path / ("x" * 250 + "1.jpg"), tmp_path / ("x" * 250 + "2.jpg")
    assert json_path(one) != json_path(two)
    assert len(os.fsencode(json_path(one).name)) <= 255
    write_beside(one, "{}")
    assert json_path(one).read_text() == "{}\n"


def test_a_left_over_temporary_file_is_overwritten_and_none_stays(tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    write_beside(image, '{"first": 1}')
    write_beside(image, "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg.cxr.json"]
    assert json_path(image).read_text() == "{}\n"


def test_a_folder_that_is_away(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_beside(tmp_path / "away" / "a.jpg", "{}")


def test_the_key_stays_and_is_secret(tmp_path: Path) -> None:
    key = load_or_make_key(tmp_path)
    assert len(key) == 32
    assert load_or_make_key(tmp_path) == key
    assert (tmp_path / "device.key").stat().st_mode & 0o777 == 0o600
    assert default_device_name(key) == default_device_name(key)
    (tmp_path / "device.key").write_bytes(b"short")
    with pytest.raises(ConfigError, match="damaged"):
        load_or_make_key(tmp_path)


def test_ids_depend_on_what_they_should() -> None:
    assert result_id("a", "b") == result_id("a", "b")
    assert len({result_id("a", "b"), result_id("a", "c"), result_id("b", "b")}) == 3
    assert image_id("a", b"key 1") != image_id("a", b"key 2")


def test_reading_takes_files_only(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    contents = read_file(tmp_path / "a", max_bytes=10)
    assert (contents.data, contents.error) == (b"abc", None)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "nothing", "."):
        with pytest.raises(NoFile):
            read_file(tmp_path / name, max_bytes=10)


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    contents = read_file(tmp_path / "large", max_bytes=10)
    assert contents.data == b""
    assert contents.error is not None
    assert "1099511627776 bytes" in contents.error.came
