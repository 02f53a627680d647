"""Layers: what arrives is what was sent, or it gets no name; what was cut off goes on; what is damaged is mended."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from firmware_bridge.deploy.layers import commit, prepare, receive, remove_layers, state_of_layer
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.listing import Entry, dump_listing, layer_hash, list_folder, parse_listing
from firmware_bridge.errors import DeployError

CONTENT = {"a.py": b"a = 1\n", "deep/er/b.bin": b"b" * 5000, "c.so": b"same", "c.so.1": b"same"}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "root")
    layout.layers.mkdir(parents=True)
    return layout


@pytest.fixture
def listing(tmp_path: Path) -> dict[str, Entry]:
    source = tmp_path / "source"
    for name, raw in CONTENT.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(raw)
    return list_folder(source)


def packed(files: dict[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, raw in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    buffer.seek(0)
    return buffer


def test_a_layer_arrives_whole_and_equal_files_travel_once(layout: Layout, listing: dict[str, Entry]) -> None:
    raw, hash = dump_listing(listing), layer_hash(listing)
    assert state_of_layer(layout, hash) == "absent"
    missing = prepare(layout, raw)
    assert missing == ["a.py", "c.so", "deep/er/b.bin"]
    receive(layout, hash, packed({name: CONTENT[name] for name in missing}))
    assert state_of_layer(layout, hash) == "absent"
    commit(layout, hash)
    assert state_of_layer(layout, hash) == "intact"
    assert {name: (layout.layer(hash) / name).read_bytes() for name in CONTENT} == CONTENT
    commit(layout, hash)  # a second time changes nothing
    assert prepare(layout, raw) == []


def test_what_was_cut_off_goes_on(layout: Layout, listing: dict[str, Entry]) -> None:
    raw, hash = dump_listing(listing), layer_hash(listing)
    prepare(layout, raw)
    whole = packed({name: CONTENT[name] for name in ("a.py", "deep/er/b.bin", "c.so")}).getvalue()
    tar = gzip.decompress(whole)
    with pytest.raises(DeployError, match="not what was sent"):
        receive(layout, hash, io.BytesIO(gzip.compress(tar[: 512 * 3 + 100])))
    with pytest.raises(DeployError, match="not what was sent"):
        commit(layout, hash)
    assert prepare(layout, raw) == ["c.so", "deep/er/b.bin"]
    receive(layout, hash, packed({"deep/er/b.bin": CONTENT["deep/er/b.bin"], "c.so": b"same"}))
    commit(layout, hash)
    assert sorted(path.name for path in layout.layer(hash).rglob("*") if path.is_file()) == [
        "a.py",
        "b.bin",
        "c.so",
        "c.so.1",
    ]


@pytest.mark.parametrize(
    "files",
    [
        {"a.py": b"a = 2\n"},
        {"a.py": b"a = 1\n\n"},
        {"other.py": b""},
        {"../a.py": b"a = 1\n"},
        {"/etc/a.py": b"a = 1\n"},
    ],
)
def test_other_bytes_and_other_files_are_refused(
    layout: Layout, listing: dict[str, Entry], files: dict[str, bytes]
) -> None:
    raw, hash = dump_listing(listing), layer_hash(listing)
    prepare(layout, raw)
    with pytest.raises(DeployError):
        receive(layout, hash, packed(files))
    assert "a.py" in prepare(layout, raw)
    assert not [path for path in layout.root.rglob("*.py") if path.is_file()]


def test_a_link_in_the_place_of_a_file_is_refused(layout: Layout, listing: dict[str, Entry]) -> None:
    prepare(layout, dump_listing(listing))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("a.py")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    buffer.seek(0)
    with pytest.raises(DeployError, match="cannot be used"):
        receive(layout, layer_hash(listing), buffer)


def test_what_another_layer_has_is_linked_unless_it_is_damaged(layout: Layout, listing: dict[str, Entry]) -> None:
    first = layer_hash(listing)
    prepare(layout, dump_listing(listing))
    receive(layout, first, packed(CONTENT))
    commit(layout, first)
    more = {**listing, "new.py": Entry(layer_hash({}), 2)}
    assert prepare(layout, dump_listing(more)) == ["new.py"]
    linked = layout.layers / f".{layer_hash(more)}.part" / "a.py"
    assert linked.samefile(layout.layer(first) / "a.py")
    linked.unlink()
    (layout.layer(first) / "a.py").write_bytes(b"rotten")
    assert prepare(layout, dump_listing(more)) == ["a.py", "new.py"]


def test_a_damaged_layer_is_told_and_mended_in_place(layout: Layout, listing: dict[str, Entry]) -> None:
    raw, hash = dump_listing(listing), layer_hash(listing)
    prepare(layout, raw)
    receive(layout, hash, packed(CONTENT))
    commit(layout, hash)
    (layout.layer(hash) / "deep/er/b.bin").write_bytes(b"b" * 4999 + b"x")
    assert state_of_layer(layout, hash) == "damaged"
    assert prepare(layout, raw) == ["deep/er/b.bin"]
    receive(layout, hash, packed({"deep/er/b.bin": CONTENT["deep/er/b.bin"]}))
    commit(layout, hash)
    assert state_of_layer(layout, hash) == "intact"


def test_what_looks_as_before_is_read_again_only_when_asked(layout: Layout, listing: dict[str, Entry]) -> None:
    hash = layer_hash(listing)
    prepare(layout, dump_listing(listing))
    receive(layout, hash, packed(CONTENT))
    commit(layout, hash)
    file = layout.layer(hash) / "deep/er/b.bin"
    written_ns = file.stat().st_mtime_ns
    with file.open("r+b") as rotting:  # a worn card: other bytes, and nothing else tells
        rotting.write(b"x")
    os.utime(file, ns=(written_ns, written_ns))
    assert state_of_layer(layout, hash, every_byte=False) == "intact"
    assert state_of_layer(layout, hash) == "damaged"
    os.utime(file)
    assert state_of_layer(layout, hash, every_byte=False) == "damaged"
    file.unlink()
    assert state_of_layer(layout, hash, every_byte=False) == "damaged"
    remove_layers(layout, keep=set())
    assert list(layout.layers.iterdir()) == []


@pytest.mark.parametrize("name", ["../up", "/abs", "a//b", "a/./b", "", "nul\0"])
def test_names_that_lead_out_of_a_layer_are_refused(name: str) -> None:
    with pytest.raises(DeployError, match="cannot be used"):
        parse_listing(dump_listing({name: Entry("0" * 64, 1)}))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{",
        b'{"a": 1}',
        b'{"a": ["x", 1, false]}',
        b'{"a": ["x", Infinity, false]}',
        b'{"\\ud800": ["x", 1, false]}',
        b"[" * 50_000,
    ],
)
def test_a_listing_that_is_none(raw: bytes) -> None:
    with pytest.raises(DeployError, match="cannot be used"):
        parse_listing(raw)


def test_a_folder_with_a_link_is_no_layer(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(DeployError, match="plain files"):
        list_folder(tmp_path)


def test_layers_that_nobody_needs_go_the_unfinished_too(layout: Layout, listing: dict[str, Entry]) -> None:
    raw, hash = dump_listing(listing), layer_hash(listing)
    prepare(layout, raw)
    receive(layout, hash, packed(CONTENT))
    commit(layout, hash)
    prepare(layout, dump_listing({"other": Entry("0" * 64, 1)}))
    remove_layers(layout, keep={hash})
    assert sorted(path.name for path in layout.layers.iterdir()) == sorted([hash, f"{hash}.json", f".{hash}.seen"])


def test_a_layer_that_a_umask_locked_is_opened_again(layout: Layout, listing: dict[str, Entry]) -> None:
    raw, hash = dump_listing(listing), layer_hash(listing)
    prepare(layout, raw)
    receive(layout, hash, packed(CONTENT))
    commit(layout, hash)
    locked = layout.layer(hash) / "deep", layout.layer(hash) / "a.py"
    for path, mode in zip(locked, (0o700, 0o600), strict=True):
        path.chmod(mode)
        assert state_of_layer(layout, hash, every_byte=False) == "damaged"
        assert prepare(layout, raw) == []
        commit(layout, hash)
        assert state_of_layer(layout, hash) == "intact"
    assert [path.stat().st_mode & 0o777 for path in locked] == [0o755, 0o644]


def test_a_layer_that_arrives_under_a_strict_umask_can_be_read(layout: Layout, listing: dict[str, Entry]) -> None:
    hash, before = layer_hash(listing), os.umask(0o077)
    try:
        prepare(layout, dump_listing(listing))
        receive(layout, hash, packed(CONTENT))
        commit(layout, hash)
    finally:
        os.umask(before)
    assert state_of_layer(layout, hash) == "intact"
    assert {path.stat().st_mode & 0o777 for path in layout.layer(hash).rglob("*")} == {0o755, 0o644}


def test_an_empty_listing_of_an_old_layer_is_no_obstacle(layout: Layout, listing: dict[str, Entry]) -> None:
    prepare(layout, dump_listing(listing))
    receive(layout, layer_hash(listing), packed(CONTENT))
    commit(layout, layer_hash(listing))
    old = "0" * 64
    layout.layer(old).mkdir()
    (layout.layers / f"{old}.json").write_bytes(b"")
    assert prepare(layout, dump_listing({**listing, "new.py": Entry(layer_hash({}), 2)})) == ["new.py"]
    assert state_of_layer(layout, old) == "damaged"
