"""Environments: what is counted, and what is left out where a machine cannot have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import environments
from benchmarks.contenders import contenders
from benchmarks.environments import Wanted, build, size_bytes


def test_every_contender_has_an_environment() -> None:
    assert {one.environment for one in contenders()} <= set(environments.environments())


def test_the_device_gets_no_tensorflow() -> None:
    packages = environments.environments()["device"].packages
    assert "ai-edge-litert" in packages
    assert not {"tensorflow", "onnxruntime"} & set(packages)


def test_byte_code_is_not_counted(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    (site / "a" / "__pycache__").mkdir(parents=True)
    (site / "a" / "b.py").write_bytes(b"12345")
    (site / "a" / "__pycache__" / "b.pyc").write_bytes(b"123456789")
    assert size_bytes(tmp_path / "bin" / "python") == 5


def test_an_environment_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "environments", lambda: {"old": Wanted(("numpy",), python="1.5")})
    pythons, notes = build(["old"], tmp_path)
    assert pythons == {}
    assert len(notes) == 1
    assert notes[0].startswith("old is left out")
