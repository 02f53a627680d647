"""TensorRT engines: which one counts, how it is built, and what is said when it is not.

There is no TensorRT here. A program in its place stands in for `trtexec`, to try what is around it: the command, the
limit, the cache. What TensorRT itself does with these files was never run.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.engines import Platform, build_engine, engine_key, find_engine, load_engine
from firmware_bridge.errors import CxrEdgeError, MissingExtraError, ModelError

ORIN = Platform("Orin 8.7", "10.3.0")
MODEL = b"an ONNX file"
SHA256 = hashlib.sha256(MODEL).hexdigest()


def program(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return path


@pytest.fixture
def trtexec(tmp_path: Path) -> Path:
    """Writes down how it was called, and an "engine" made of its input."""
    return program(
        tmp_path / "trtexec",
        f'echo "$@" >> {tmp_path}/calls',
        "for one; do case $one in --onnx=*) in=${one#*=};; --saveEngine=*) out=${one#*=};; esac; done",
        '{ echo engine of; cat "$in"; } > "$out"',
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "engines"
    made.mkdir()
    return made


def test_the_key_changes_with_everything_that_an_engine_depends_on() -> None:
    key = engine_key(ORIN, model_sha256=SHA256, precision="int8")
    others = {
        engine_key(replace(ORIN, gpu="Orin 8.6"), model_sha256=SHA256, precision="int8"),
        engine_key(replace(ORIN, tensorrt="10.7.0"), model_sha256=SHA256, precision="int8"),
        engine_key(ORIN, model_sha256="0" * 64, precision="int8"),
        engine_key(ORIN, model_sha256=SHA256, precision="fp16"),
    }
    assert len(others | {key}) == 5
    assert key == engine_key(ORIN, model_sha256=SHA256, precision="int8")


def test_an_engine_is_built_once(trtexec: Path, folder: Path, tmp_path: Path) -> None:
    first = build_engine(MODEL, precision="int8", platform=ORIN, folder=folder, trtexec=trtexec)
    again = build_engine(MODEL, precision="int8", platform=ORIN, folder=folder, trtexec=trtexec)
    assert (first["built"], again["built"]) == (True, False)
    assert find_engine(folder, first["key"]) == b"engine of\n" + MODEL
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert {"--int8", "--fp16", "--skipInference"} <= set(call.split())
    build_engine(MODEL, precision="int8", platform=replace(ORIN, tensorrt="10.7.0"), folder=folder, trtexec=trtexec)
    build_engine(MODEL, precision="fp16", platform=ORIN, folder=folder, trtexec=trtexec)
    assert "--int8" not in (tmp_path / "calls").read_text().splitlines()[-1]
    assert not list(folder.glob(".build-*"))


def test_a_changed_or_half_written_engine_does_not_count(trtexec: Path, folder: Path) -> None:
    key = build_engine(MODEL, precision="fp16", platform=ORIN, folder=folder, trtexec=trtexec)["key"]
    (folder / f"{key}.engine").write_bytes(b"another")
    assert find_engine(folder, key) is None
    assert build_engine(MODEL, precision="fp16", platform=ORIN, folder=folder, trtexec=trtexec)["built"]
    (folder / f"{key}.json").write_text("[1]")
    assert find_engine(folder, key) is None
    (folder / f"{key}.json").unlink()
    assert find_engine(folder, key) is None


def test_old_engines_go(trtexec: Path, folder: Path) -> None:
    for number in range(12):
        platform = replace(ORIN, tensorrt=f"10.{number}.0")
        key = build_engine(MODEL, precision="fp16", platform=platform, folder=folder, trtexec=trtexec)["key"]
        os.utime(folder / f"{key}.engine", (number, number))
    assert len(list(folder.glob("*.engine"))) == len(list(folder.glob("*.json"))) == 8
    assert find_engine(folder, key) is not None


def test_what_trtexec_says_is_told(folder: Path, tmp_path: Path) -> None:
    failing = program(
        tmp_path / "failing", "echo '[I] fine'", "echo '[E] no kernel for this' >&2", "echo more", "exit 1"
    )
    with pytest.raises(ModelError) as caught:
        build_engine(MODEL, precision="int8", platform=ORIN, folder=folder, trtexec=failing)
    assert caught.value.came == "[E] no kernel for this"
    silent = program(tmp_path / "silent", "exit 0")
    with pytest.raises(ModelError, match="no TensorRT engine"):
        build_engine(MODEL, precision="int8", platform=ORIN, folder=folder, trtexec=silent)
    with pytest.raises(MissingExtraError, match="no trtexec"):
        build_engine(MODEL, precision="int8", platform=ORIN, folder=folder, trtexec=tmp_path / "none")
    assert not list(folder.iterdir())


def test_a_build_without_end_is_ended_with_all_that_it_started(folder: Path, tmp_path: Path) -> None:
    hanging = program(tmp_path / "hanging", f"sleep 600 & echo $! > {tmp_path}/child", "wait")
    with pytest.raises(ModelError) as caught:
        build_engine(MODEL, precision="int8", platform=ORIN, folder=folder, trtexec=hanging, limit_s=1.0)
    assert "no end within 1 s" in caught.value.came
    child = int((tmp_path / "child").read_text())
    end_s = time.monotonic() + 10
    while _lives(child) and time.monotonic() < end_s:
        time.sleep(0.02)
    assert not _lives(child)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_where_there_is_no_tensorrt_it_says_what_to_install(folder: Path) -> None:
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError) as caught:
            load_engine(MODEL, precision="int8", folder=folder)
        assert "python3-libnvinfer" in caught.value.do
    else:
        with pytest.raises(CxrEdgeError):  # there is no engine, or no GPU
            load_engine(MODEL, precision="int8", folder=folder)
