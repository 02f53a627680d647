"""`cxr-edge score`: what it writes, and that it is what the agent would have said."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec import register_implementation
from fsspec.implementations.memory import MemoryFileSystem

from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import BundleError, ConfigError, IndexFormatError, InputError, ResourceError
from firmware_bridge.result import NOTICE, result_id
from firmware_bridge.shipped import shipped_bundle
from tests.toolkit.archive.conftest import COMMAND, paths_of, rows_of, unreadable_of
from toolkit.archive.names import as_text, is_xray_name, without_secrets
from toolkit.archive.run import ScoreOptions, ScoreSummary, score_archive
from toolkit.archive.source import SourceOptions
from toolkit.cli.main import run

Score = Callable[..., ScoreSummary]


def test_a_folder_gives_what_the_agent_gives(archive: Path, out: Path, tmp_path: Path, score: Score) -> None:
    done = score(archive, workers=2)
    assert (done.scored + done.refused, done.unreadable, done.before) == (12, 0, 0)
    rows = rows_of(out)

    watch = tmp_path / "watch"
    watch.mkdir()
    for row in rows:
        shutil.copyfile(archive / row["path"], watch / row["path"].replace("/", "_"))
    agent = [sys.executable, "-m", "toolkit.cli.main", "agent", "--watch", str(watch), "--once", "--settle", "0"]
    subprocess.run([*agent, "--state", str(tmp_path / "state")], check=True, capture_output=True, timeout=300)
    for row in rows:
        record = json.loads((watch / f"{row['path'].replace('/', '_')}.cxr.json").read_text(encoding="utf-8"))
        assert record["id"] == row["result_id"]
        assert record["bundle"]["id"] == row["bundle_id"]
        assert ("refused" in record) == (row["status"] == "refused")
        if row["status"] == "scored":
            assert record["probability"] == round(row["probability"], 6)
            assert record["threshold"] == row["threshold"]
            assert (record["decision"] == "positive") == row["positive"]
            assert record["suitability"]["population"] == row["population"]
        else:
            assert record["refused"]["reason"] == row["reason"]


def test_every_row_names_its_bytes_and_says_that_it_is_no_diagnosis(archive: Path, out: Path, score: Score) -> None:
    copied = archive / "copy.jpg"
    shutil.copyfile(next(archive.rglob("IM-*.jpg")), copied)
    score(archive)
    rows = rows_of(out)
    with open_bundle(shipped_bundle()) as bundle:
        for row in rows:
            digest = hashlib.sha256((archive / row["path"]).read_bytes()).hexdigest()
            assert (row["sha256"], row["result_id"]) == (digest, result_id(digest, bundle.id))
            assert row["notice"] == NOTICE
    # The same bytes at two paths are two rows with one result.
    same = [row for row in rows if row["sha256"] == hashlib.sha256(copied.read_bytes()).hexdigest()]
    assert len(same) == 2
    assert same[0]["probability"] == same[1]["probability"]


def test_the_schema_is_the_one_that_was_promised(archive: Path, out: Path, score: Score, request: Any) -> None:
    (archive / "broken.png").write_bytes(b"no picture")
    score(archive)
    stored = Path(request.path).parent / "schema"
    for name, folder in (("results", out), ("unreadable", out / "_unreadable.parquet")):
        (part,) = folder.glob("part-*.parquet")
        told = pq.read_schema(part)
        text = "".join(f"{f.name}: {f.type}{'' if f.nullable else ' not null'}\n" for f in told)
        assert text == (stored / f"{name}.txt").read_text(encoding="utf-8")
        assert json.loads(told.metadata[b"cxr-edge"]) == {"schema": 1, "notice": NOTICE}
        # A file that an earlier version wrote reads as one table with today's.
        assert pa.concat_tables([pq.read_table(part), pq.read_table(stored / f"{name}.parquet")]).num_rows > 1


def test_the_same_command_again_does_nothing(archive: Path, out: Path, score: Score) -> None:
    (archive / "broken.png").write_bytes(b"no picture")
    score(archive)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("part-*")}
    again = score(archive)
    assert (again.before, again.scored, again.refused, again.unreadable) == (13, 0, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("part-*")} == before
    # New X-rays are scored, and they alone.
    shutil.copyfile(next(archive.rglob("IM-*.jpg")), archive / "new.jpg")
    assert score(archive).scored == 1
    assert len(set(paths_of(out))) == len(paths_of(out)) == 13


def test_what_cannot_be_read_has_a_table_of_its_own(archive: Path, out: Path, score: Score) -> None:
    (archive / "broken.png").write_bytes(b"no picture")
    (archive / "empty.dcm").write_bytes(b"")
    (archive / "nowhere.jpg").symlink_to("not/there.jpg")
    (archive / "circle.jpg").symlink_to("circle.jpg")
    (archive / "huge.tif").touch()
    os.truncate(archive / "huge.tif", 65 * 2**20)
    done = score(archive)
    rows = {row["path"]: row for row in unreadable_of(out)}
    assert done.unreadable == 5
    assert set(rows) == {"broken.png", "empty.dcm", "nowhere.jpg", "circle.jpg", "huge.tif"}
    assert rows["nowhere.jpg"]["came"] == "No such file or directory"
    assert "symbolic links" in rows["circle.jpg"]["came"]
    assert rows["huge.tif"]["came"] == f"{65 * 2**20} bytes"
    assert all(row["expected"] and row["do"] and row["notice"] == NOTICE for row in rows.values())
    assert rows["broken.png"]["sha256"] == hashlib.sha256(b"no picture").hexdigest()
    assert not set(rows) & set(paths_of(out))

    shutil.copyfile(next(archive.rglob("IM-*.jpg")), archive / "broken.png")
    assert (score(archive).before, score(archive, retry_unreadable=True).scored) == (17, 1)
    assert "broken.png" in paths_of(out)
    assert len(unreadable_of(out)) == 4


def test_hostile_names_and_trees(archive: Path, out: Path, score: Score) -> None:
    xray = next(archive.rglob("IM-*.jpg"))
    names = [b"new\nline.jpg", b"\xff\xfe.jpg", b"a\\xff.jpg", "Müller, 王.jpg".encode(), b"-rf.jpg", b"$(id).jpg"]
    for name in names:
        shutil.copyfile(xray, os.fsencode(archive) + b"/" + name)
    (archive / "loop").symlink_to("..")
    (archive / "self").symlink_to(".")
    os.mkfifo(archive / "pipe.jpg")
    deep = archive
    for _ in range(80):
        deep = deep / "d"
    deep.mkdir(parents=True)
    shutil.copyfile(xray, deep / "deep.jpg")
    for passed in ("DICOMDIR", "note.txt", ".hidden.jpg", "._shadow.jpg", "Thumbs.db"):
        (archive / passed).write_bytes(b"x")
    done = score(archive)
    assert done.scored + done.refused == 12 + len(names)
    assert done.passed_over == {"files": 6, "links": 2, "nameless": 0}
    assert {as_text(os.fsdecode(name)) for name in names} <= set(paths_of(out))
    assert {r"\xff\xfe.jpg", r"a\\xff.jpg"} <= set(paths_of(out))
    assert [row["came"] for row in unreadable_of(out)] == ["folders too deep"]
    assert score(archive).scored == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_folder_that_cannot_be_read_is_told() -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom toolkit.archive.walk import Passed, walk_local\n"
        "os.setuid(65534)\n"
        "print([(item.path, item.problem) for item in walk_local(Path(sys.argv[1]), Passed())])"
    )
    # Not below pytest's own folder, which no other user may enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "closed").mkdir(mode=0o000)
        command = [sys.executable, "-c", code, folder]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "('closed', 'a folder that cannot be read: Permission denied')" in told


@pytest.mark.parametrize("form", ["csv", "parquet", "folder of parquet"])
def test_a_list(form: str, archive: Path, out: Path, score: Score) -> None:
    names = [str(path.relative_to(archive)) for path in sorted(archive.rglob("*.jpg"))]
    table = {
        "file": [*names, names[0], "not/there.jpg", "2026/../../../etc/passwd", "", f"{archive}/DICOM/IM000001"],
        "accession": [f"A{number}" for number in range(len(names) + 5)],
        "patient_id": ["somebody"] * (len(names) + 5),
    }
    source = archive / f"list.{'csv' if form == 'csv' else 'parquet'}"
    if form == "csv":
        with source.open("w", newline="") as file:
            csv.writer(file).writerows([list(table), *zip(*table.values(), strict=True)])
    else:
        one = pa.table({**table, "accession": pa.array(table["accession"]).dictionary_encode()})
        if form == "parquet":
            pq.write_table(one, source)
        else:
            source.mkdir()
            pq.write_table(one.slice(0, 5), source / "0.parquet")
            pq.write_table(one.slice(5), source / "1.parquet")
    done = score(source, source=SourceOptions(path_column="file", keep=("accession",)))
    assert (done.scored + done.refused, done.unreadable, done.repeated) == (11, 2, 1)
    assert done.passed_over["nameless"] == 1
    rows = {row["path"]: row for row in rows_of(out)}
    assert {path: row["accession"] for path, row in rows.items()} == {
        **{name: f"A{number}" for number, name in enumerate(names)},
        f"{archive}/DICOM/IM000001": f"A{len(names) + 4}",
    }
    assert "patient_id" not in next(iter(rows.values()))
    assert {row["path"] for row in unreadable_of(out)} == {"not/there.jpg", "2026/../../../etc/passwd"}
    # Neither names nor numbers of patients are anywhere in what was written.
    assert b"somebody" not in b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())


def test_what_is_kept_comes_out_as_it_was(archive: Path, out: Path, score: Score) -> None:
    """Also what Python has no word for: nanoseconds as pandas writes them, the year 38,000, an unknown time zone."""
    (xray, *_) = archive.rglob("*.jpg")
    kept = {
        "ns": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns", "Mars/Olympus")),
        "far": pa.array([2**60, None], pa.timestamp("us")),
        "nested": pa.array([[{"a": [None, [1]]}], None]),
        "map": pa.array([[("x", 1)], None], pa.map_(pa.string(), pa.int8())),
    }
    pq.write_table(pa.table({"path": [str(xray), str(archive / "DICOM/IM000001")], **kept}), archive / "l.parquet")
    score(archive / "l.parquet", source=SourceOptions(keep=tuple(kept)))
    (part,) = out.glob("part-*")
    table = pq.read_table(part).sort_by("ns")
    for name, was in kept.items():
        assert table.column(name).combine_chunks().equals(was), name


def test_an_index_of_ours(samples: Path, out: Path, score: Score) -> None:
    done = score(samples / "index.csv")
    with (samples / "index.csv").open(encoding="utf-8") as file:
        assert paths_of(out) == sorted(row["path"] for row in csv.DictReader(file))
    assert done.scored + done.refused == len(paths_of(out))


def test_lists_that_are_none(archive: Path, tmp_path: Path, score: Score) -> None:
    pq.write_table(pa.table({"file": ["a"], "number": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 or not")
    (tmp_path / "c.csv").write_text("file,age\na.jpg,3\n")
    with pytest.raises(IndexFormatError, match="lacks the column 'path'") as told:
        score(tmp_path / "a.parquet")
    assert "--path-column" in told.value.do
    with pytest.raises(IndexFormatError, match="lacks the column 'accession'"):
        score(tmp_path / "a.parquet", source=SourceOptions(path_column="file", keep=("accession",)))
    with pytest.raises(IndexFormatError, match="holds no names"):
        score(tmp_path / "a.parquet", source=SourceOptions(path_column="number"))
    with pytest.raises(IndexFormatError, match="cannot be read as Parquet"):
        score(tmp_path / "b.parquet")
    with pytest.raises(IndexFormatError, match="lacks the column 'path'"):
        score(tmp_path / "c.csv")
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"path": bad}), tmp_path / "e.parquet")
    with pytest.raises(IndexFormatError, match=r"e\.parquet cannot be read as Parquet"):
        score(tmp_path / "e.parquet")
    with pytest.raises(InputError, match="is nothing that can be scored"):
        score(tmp_path / "not there")
    with pytest.raises(ConfigError, match="a folder has no columns"):
        score(archive, source=SourceOptions(keep=("age",)))
    pq.write_table(pa.table({"path": ["a"], "sha256": ["b"]}), tmp_path / "d.parquet")
    with pytest.raises(ConfigError, match="the column 'sha256' cannot be kept"):
        score(tmp_path / "d.parquet", source=SourceOptions(keep=("sha256",)))


def test_another_source_or_bundle_on_the_same_out_is_refused(archive: Path, out: Path, score: Score) -> None:
    score(archive / "DICOM")
    with pytest.raises(ConfigError, match="another run") as told:
        score(archive)
    assert told.value.came == f"source '{archive / 'DICOM'}'"
    assert "--out" in told.value.do
    with pytest.raises(ConfigError, match="another run"):
        score(archive / "DICOM", bundle=Path("cxr-edge/kermany-nih"))
    with pytest.raises(ConfigError, match="another run"):
        score(archive / "DICOM", refuse_outside=True)
    other = out.with_name("other.parquet")
    other.mkdir()
    pq.write_table(pa.table({"x": [1]}), other / "mine.parquet")
    before = sorted(other.rglob("*"))
    code = subprocess.run([*COMMAND, str(archive), "--out", str(other)], capture_output=True, text=True, timeout=120)
    assert code.returncode == 2
    assert "is not a place for results" in code.stderr
    assert sorted(other.rglob("*")) == before


def test_two_runs_on_one_out_at_once_are_refused(archive: Path, out: Path, score: Score) -> None:
    from toolkit.files import only_here

    with only_here(out), pytest.raises(ConfigError, match="another process works in") as told:
        score(archive)
    assert "--out" in told.value.do


def test_a_damaged_file_of_results_is_told(archive: Path, out: Path, score: Score) -> None:
    score(archive)
    (part,) = out.glob("part-*")
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read") as told:
        score(archive)
    assert "move it away" in told.value.do
    part.rename(out.parent / "away")
    again = score(archive)
    assert (again.before, again.scored + again.refused) == (0, 12)


@pytest.mark.parametrize(
    ("table", "came"),
    [
        (pa.table({"file": ["a.jpg"]}), "no column of paths"),
        (pa.table({"path": [1]}), "no column of paths"),
        (pa.table({"path": pa.array([None], pa.string())}), "rows without a path"),
        (None, "another file there has, too"),
    ],
)
def test_a_file_among_the_results_that_no_run_wrote_is_told(
    table: pa.Table | None, came: str, archive: Path, out: Path, score: Score
) -> None:
    """A copy of a file of results, for one: whoever reads the folder would have its X-rays twice."""
    score(archive)
    (part,) = out.glob("part-*")
    pq.write_table(table or pq.read_table(part), out / "part-copy-of-it.parquet")
    with pytest.raises(InputError, match="cannot be read") as told:
        score(archive)
    assert came in told.value.came
    assert "move it away" in told.value.do


def test_a_folder_that_is_no_place_for_results_stays_as_it_is(archive: Path, tmp_path: Path, score: Score) -> None:
    from toolkit.files import only_here

    theirs = tmp_path / "results.parquet"
    (theirs / ".git").mkdir(parents=True)
    (theirs / ".git/.1.part.x").write_text("theirs")
    with pytest.raises(ConfigError, match="is not a place for results"):
        score(archive)
    assert (theirs / ".git/.1.part.x").read_text() == "theirs"
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/.lock").symlink_to("../theirs")
    with pytest.raises(ResourceError), only_here(tmp_path / "linked"):
        pass
    assert (tmp_path / "theirs").read_text() == "theirs"
    with pytest.raises(InputError, match="no source is named"):
        score("")


class Served(SimpleHTTPRequestHandler):
    """Like a program that makes its answers as it goes: no length, in pieces; its pages of folders are Apache's."""

    protocol_version = "HTTP/1.1"
    broken, whole, status = "", False, 500

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if self.broken and self.broken in self.path:
            self.send_error(self.status)
        elif path.is_dir():
            links = [
                "?C=N;O=D",
                "/",
                "../",
                "../../above.jpg",
                *(f"{one.name}{'/' * one.is_dir()}" for one in path.iterdir()),
            ]
            self._in_pieces("text/html", "".join(f'<a href="{quote(link, "/?=;")}">x</a>' for link in links).encode())
        elif self.whole or not path.is_file():
            super().do_GET()
        else:
            self._in_pieces("image/jpeg", path.read_bytes())

    def do_HEAD(self) -> None:
        if self.whole:
            super().do_HEAD()
        else:
            self.send_error(405)

    def _in_pieces(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):  # who only wants the head hangs up
            for start in range(0, len(content), 4000):
                piece = content[start : start + 4000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
                time.sleep(0.01)
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def http(archive: Path) -> Iterator[str]:
    (archive / "with space, Müller.jpg").write_bytes(next(archive.rglob("IM-*.jpg")).read_bytes())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Served, directory=str(archive)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("whole", [True, False])
def test_an_archive_behind_http(
    whole: bool, archive: Path, http: str, out: Path, score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an answer has no length: all of it is read, not what has come at first."""
    monkeypatch.setattr(Served, "whole", whole)
    score(archive)
    expected = [(quote(row["path"]), row["sha256"], row["probability"]) for row in rows_of(out)]
    shutil.rmtree(out)
    score(http)
    assert [(row["path"], row["sha256"], row["probability"]) for row in rows_of(out)] == expected
    assert {row["came"] for row in unreadable_of(out)} == {"a name that leaves the folder"}


def test_one_xray_that_its_server_fails_on_is_unreadable_and_the_others_are_scored(
    http: str, out: Path, score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Served, "whole", True)
    monkeypatch.setattr(Served, "broken", "IM000001")
    done = score(f"{http.replace('//', '//me:hidden@')}/DICOM")
    assert (done.scored + done.refused, done.unreadable) == (1, 2)
    (row,) = [row for row in unreadable_of(out) if row["path"] == "IM000001"]
    assert row["came"] == "status 500 in 3 tries, where another X-ray could be read"
    # One that has too much to do says nothing of the X-ray.
    monkeypatch.setattr(Served, "status", 429)
    shutil.rmtree(out)
    with pytest.raises(InputError) as told:
        score(f"{http.replace('//', '//me:hidden@')}/DICOM")
    assert told.value.came == "status 429 in 3 tries"
    monkeypatch.setattr(Served, "broken", "/")
    with pytest.raises(InputError) as told:
        score(f"{http.replace('//', '//me:hidden@')}/DICOM")
    assert "status 429" in told.value.came
    assert "hidden" not in str(told.value)
    assert b"hidden" not in b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())


def test_a_list_of_addresses(http: str, tmp_path: Path, score: Score) -> None:
    pq.write_table(pa.table({"path": [f"{http}/DICOM/IM000001", f"{http}/nothing.jpg"]}), tmp_path / "l.parquet")
    done = score(tmp_path / "l.parquet")
    assert (done.scored + done.refused, done.unreadable) == (1, 1)


def test_a_list_from_elsewhere_has_no_file_of_this_machine_read(
    archive: Path, http: str, out: Path, score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Served, "whole", True)
    secret = f"file://{archive}/DICOM/IM000001"
    elsewhere = http.replace("127.0.0.1", "localhost")
    paths = [secret, "/etc/passwd", "../x.jpg", f"{elsewhere}/DICOM/IM000001", f"{http}/a/../../x.jpg"]
    paths += [f"{http}/x.jpg::{secret}", "x.jpg::file"]
    good = ["DICOM/IM000001", f"{http}/DICOM/1.2.840.1"]
    pq.write_table(pa.table({"path": [*paths, *good]}), archive / "l.parquet")
    done = score(f"{http}/l.parquet")
    assert done.scored + done.refused == 2
    assert paths_of(out) == good
    assert {row["path"] for row in unreadable_of(out)} == set(paths)
    assert {row["came"] for row in unreadable_of(out)} == {"a name that leaves the folder of the list"}


def test_a_server_that_stops_answering_ends_the_run_and_nothing_is_written_off(
    out: Path, tmp_path: Path, score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.archive.read._PAUSE_S", 0.01)
    pq.write_table(pa.table({"path": ["http://127.0.0.1:9/a.jpg"]}), tmp_path / "l.parquet")
    with pytest.raises(InputError, match="does not answer"):
        score(tmp_path / "l.parquet")
    assert unreadable_of(out) == []
    with pytest.raises(InputError):
        score("http://127.0.0.1:9/folder")


def test_an_archive_in_memory(samples: Path, out: Path, score: Score) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    xray = next((samples / "chest_xray").rglob("*.jpg")).read_bytes()
    files.pipe({"/arch/a/1.jpg": xray, "/arch/2.jpg": b"x"})
    try:
        done = score("memory://arch")
    finally:
        files.rm("/arch", recursive=True)
    assert (done.scored, done.unreadable) == (1, 1)
    assert paths_of(out) == ["a/1.jpg"]


def test_what_is_in_a_file_and_the_same_names_in_another_are_two_archives(
    archive: Path, out: Path, tmp_path: Path, score: Score
) -> None:
    score(archive)
    expected = [(row["path"].replace("IM000001", "a::b"), row["sha256"]) for row in rows_of(out)]
    shutil.rmtree(out)
    (archive / "DICOM/IM000001").rename(archive / "DICOM/a::b")  # no address of two parts, but a name
    zipped = shutil.make_archive(str(tmp_path / "one"), "zip", tmp_path, "archive")
    done = score(f"zip://archive::{zipped}", workers=1)
    assert done.unreadable == 0
    assert sorted((row["path"], row["sha256"]) for row in rows_of(out)) == sorted(expected)
    assert json.loads((out / "_run.json").read_text())["source"] == f"zip://archive::{zipped}"
    assert score("zip://archive", source=SourceOptions(storage={"fo": zipped})).before == len(expected)
    other = shutil.copyfile(zipped, tmp_path / "other.zip")
    for address, option in ((f"zip://archive::{other}", {}), ("zip://archive", {"fo": str(other)})):
        with pytest.raises(ConfigError, match="another run"):
            score(address, source=SourceOptions(storage=option))


class Hosts(MemoryFileSystem):
    """As FTP, SFTP and SMB: the host is in the address, and in none of the names that the server gives."""

    protocol = "hosts"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def __init__(self, host: str, **options: Any) -> None:
        super().__init__(**options)
        self.host = host

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        return {"host": host} if (host := path.removeprefix("hosts://").partition("/")[0]) else {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("hosts://").partition("/")[2] if path.startswith("hosts://") else path

    def _open(self, path: str, *args: Any, **options: Any) -> Any:
        if not path.startswith(f"/{self.host}/"):
            raise FileNotFoundError(path)
        return super()._open(path, *args, **options)


def test_servers_with_names_of_their_own(samples: Path, out: Path, tmp_path: Path, score: Score) -> None:
    register_implementation("hosts", Hosts, clobber=True)
    first, second = (path.read_bytes() for path in sorted((samples / "chest_xray").rglob("*.jpg"))[:2])
    Hosts("one").pipe({"/one/a/x.jpg": first, "/one/l.csv": b"path\na/x.jpg\n"})
    Hosts("two").pipe({"/two/x.jpg": second})
    try:
        assert score("hosts://one/one").scored == 1
        shutil.rmtree(out)
        assert score("hosts://one/one/l.csv").scored == 1
        shutil.rmtree(out)
        names = ["hosts://one/one/a/x.jpg", "hosts://two/two/x.jpg", "hosts://two/one/a/x.jpg", "nobody://knows/x.jpg"]
        names.append("ftp://host:port/x.jpg")
        (tmp_path / "both.csv").write_text("\n".join(["path", *names]))
        done = score(tmp_path / "both.csv")
    finally:
        Hosts.store.clear()
    assert {row["path"]: row["sha256"] for row in rows_of(out)} == {
        names[0]: hashlib.sha256(first).hexdigest(),
        names[1]: hashlib.sha256(second).hexdigest(),
    }
    assert done.unreadable == 3


def test_both_tables_are_there_and_the_command_says_what_was_unreadable(archive: Path, out: Path, score: Score) -> None:
    done = score(archive)
    assert done.unreadable_table == ""
    assert (out / "_unreadable.parquet").is_dir()
    assert unreadable_of(out) == []
    (archive / "notes.jpg").write_bytes(b"x")
    command = [*COMMAND, archive, "--out", out, "--workers", "0"]
    told = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert "unreadable: 1 x this is not an image, for example notes.jpg: 1 bytes" in told[0]
    assert f"{done.scored + done.refused + 1} were done before, 1 of them unreadable" in told[1]


def test_an_out_with_a_colon_is_a_folder_and_an_address_is_refused(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ScoreOptions(workers=0)
    done = score_archive(str(archive), Path("run 12:00.parquet"), options)
    assert score_archive(str(archive), Path("run 12:00.parquet"), options).before == done.scored + done.refused
    with pytest.raises(ConfigError, match="an address"):
        score_archive(str(archive), Path("s3://bucket/results"), options)
    assert not Path("s3:").exists()


def test_names() -> None:
    taken = ("a.JPG", "IM0001", "1.2.840.113619.2.55", "x.dcm", "slice.0001")
    assert [name for name in taken if not is_xray_name(name)] == []
    passed = ("a.txt", "DICOMDIR", ".a.jpg", "a.jpg.part", "a.cxr.json", "a.parquet")
    assert [name for name in passed if is_xray_name(name)] == []
    texts = [os.fsdecode(name) for name in (b"\xff", rb"\xff", rb"\\xff", b"a", b"\xff\\xfe", b"\xff\xfe")]
    assert len({as_text(text) for text in texts}) == len(texts)
    assert without_secrets("s3://key:secret@bucket/a?token=1") == "s3://bucket/a"


def test_the_command(archive: Path, out: Path) -> None:
    command = [*COMMAND, str(archive), "--out", str(out)]
    told = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, timeout=300)
    summary = json.loads(told.stdout)
    assert summary["scored"] + summary["refused"] == 12
    assert summary["notice"] == NOTICE
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert "12 were done before" in told.stdout
    assert NOTICE in told.stdout


def test_options_that_do_not_fit(archive: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", str(archive), "--out", str(out), "--ray-address", "a:1"]) == 2
    assert "--engine ray" in capsys.readouterr().err
    assert run(["score", str(archive), "--out", str(out), "--storage-option", "x"]) == 2
    assert "KEY=VALUE" in capsys.readouterr().err
    assert run(["score", "http://127.0.0.1:9/x/?token=secret", "--out", str(out)]) == 3
    told = capsys.readouterr().err
    assert "an address with a '?'" in told
    assert "secret" not in told
    assert run(["score", "http://me:secret@[nowhere/x", "--out", str(out)]) == 3
    told = capsys.readouterr().err
    assert "http://… is nothing that can be scored" in told
    assert "secret" not in told
    assert not out.exists()


def test_an_archive_in_s3(archive: Path, out: Path, score: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("s3fs", "moto", "flask"):
        pytest.importorskip(module, reason="needs an S3 of one's own: pip install s3fs 'moto[s3]' flask flask-cors")
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    score(archive)
    expected = [(row["path"], row["sha256"], row["probability"]) for row in rows_of(out)]
    shutil.rmtree(out)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        s3.create_bucket(Bucket="archive")
        for path in archive.rglob("*"):
            if path.is_file():
                s3.upload_file(str(path), "archive", f"xrays/{path.relative_to(archive)}")
        options = SourceOptions(storage={"endpoint_url": endpoint})
        assert score("s3://archive/xrays", source=options, workers=2).unreadable == 0
        assert [(row["path"], row["sha256"], row["probability"]) for row in rows_of(out)] == expected
        assert endpoint not in (out / "_run.json").read_text()
    finally:
        server.stop()


def test_a_machine_on_which_the_model_says_something_else_scores_nothing(
    archive: Path, out: Path, tmp_path: Path, score: Score
) -> None:
    changed = tmp_path / "changed.cxr"
    with zipfile.ZipFile(shipped_bundle()) as whole, zipfile.ZipFile(changed, "w") as other:
        for name in whole.namelist():
            content = whole.read(name)
            if name == "manifest.json":
                manifest = json.loads(content)
                for case in manifest["golden"]:
                    case["probability"] = 1.0 - case["probability"]
                content = json.dumps(manifest).encode()
            if name != "manifest.sig":
                other.writestr(name, content)
    for workers in (0, 1):
        with pytest.raises(BundleError, match="does not give the bundle's results here"):
            score(archive, bundle=changed, workers=workers)
    assert list(out.glob("part-*")) == []
