"""What only an attacker, or a slip, would give: a message and its exit code, never a traceback and never a wait."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import BundleError, ConfigError, IndexFormatError
from toolkit.cli.main import run
from toolkit.data.nih_rsna import read_rsna
from toolkit.data.readers import read_class_folders
from toolkit.data.tables import Columns, read_table


@pytest.mark.parametrize("option", ["--poll", "--settle", "--grace", "--flush"])
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_times_are_finite(option: str, number: str, tmp_path: Path) -> None:
    assert run(["agent", "--watch", str(tmp_path), "--bundle", "none.cxr", option, number]) == 2


def test_links_in_a_loop_are_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert run(["agent", "--watch", str(tmp_path / "a"), "--bundle", "none.cxr", "--once"]) == 2


def test_a_pipe_is_no_bundle(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.cxr")
    with pytest.raises(BundleError, match="pipe"):
        open_bundle(tmp_path / "pipe.cxr")
    with pytest.raises(BundleError, match="device"):
        open_bundle(Path("/dev/zero"))


def test_a_pipe_among_the_images_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("a/1.dcm", "b/2.dcm"):
        (tmp_path / name).parent.mkdir()
        os.mkfifo(tmp_path / name)
    assert len(read_class_folders(tmp_path)) == 2


def test_a_table_without_a_label_column_is_a_wrong_option(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\n")
    with pytest.raises(ConfigError, match="--label-column"):
        read_table(tmp_path / "t.csv", columns=Columns(label=""))


def test_a_nul_in_a_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\na\0b.png,normal\n")
    with pytest.raises(IndexFormatError):
        read_table(tmp_path / "t.csv")


def test_a_mapping_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("patientId,class\n")
    (tmp_path / "map.json").write_text("[" * 100_000)
    with pytest.raises(IndexFormatError, match="mapping"):
        read_rsna(tmp_path / "t.csv", mapping=tmp_path / "map.json")
