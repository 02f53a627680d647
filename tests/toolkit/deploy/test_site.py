"""Fetching packages: minutes the first time, so it says what it does; and what fails is told, late or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import uv

from firmware_bridge.errors import DeployError
from toolkit.deploy import site

Fetch = Callable[[str], list[str]]


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    """Fetch with a program in the place of uv; what was said."""

    def run(script: str) -> list[str]:
        program = tmp_path / "uv"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(uv, "find_uv_bin", lambda: str(program))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        said: list[str] = []
        site.build_site(machine="aarch64", python="3.10", glibc="2.35", say=said.append)
        return said

    return run


INSTALL = """
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/numpy"; echo 1 > "$2/numpy/__init__.py"
echo "Resolved 25 packages in 3.55s" >&2; echo " Downloading numpy (16.1MiB)" >&2; echo " + numpy==2" >&2
"""


def test_the_first_time_says_what_is_fetched_and_the_second_nothing(fetch: Fetch) -> None:
    first = fetch(INSTALL)
    assert first[0].startswith("fetching the packages for Python 3.10 on aarch64")
    assert first[1:] == ["Resolved 25 packages in 3.55s", "Downloading numpy (16.1MiB)", "compiling and hashing them"]
    assert fetch("exit 1") == []


def test_what_uv_says_is_told(fetch: Fetch) -> None:
    with pytest.raises(DeployError, match="there are no packages") as caught:
        fetch("echo 'No solution found' >&2; exit 1")
    assert caught.value.came == "No solution found"


def test_a_fetch_without_an_end_is_ended(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "_LIMIT_S", 0.5)
    with pytest.raises(DeployError) as caught:
        fetch("exec sleep 60")
    assert "no end within" in caught.value.came
