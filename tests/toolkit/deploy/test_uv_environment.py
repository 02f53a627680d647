"""uv finds packages where pip finds them: by a real pip's own configuration, against a real uv."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from uv import find_uv_bin

from toolkit.deploy.uv_environment import parse_pip_settings, uv_environment

MIRROR = "https://user:secret@mirror.example/simple"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of somebody whose pip knows a mirror by its file alone."""
    (tmp_path / "pip.conf").write_text(
        f"[global]\nindex-url = {MIRROR}\nextra-index-url =\n    https://one.example/simple\n    https://two.example/simple\n"
        "[install]\ntrusted-host = mirror.example\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "SSL_"))}
    return kept | {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}


def test_what_pip_knows_uv_is_told(environment: dict[str, str]) -> None:
    told = uv_environment(environment)
    assert told["UV_DEFAULT_INDEX"] == MIRROR
    assert told["UV_INDEX"].split() == ["https://one.example/simple", "https://two.example/simple"]
    assert told["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert told["UV_INSECURE_HOST"] == "mirror.example"
    assert told["PATH"] == environment["PATH"]


def test_what_uv_was_told_stays(environment: dict[str, str]) -> None:
    told = uv_environment(environment | {"UV_INDEX_URL": "https://own.example/simple", "UV_INDEX": "https://x.example"})
    assert "UV_DEFAULT_INDEX" not in told
    assert told["UV_INDEX"] == "https://x.example"
    assert "UV_INDEX_STRATEGY" not in told


def test_a_variable_of_pip_counts_more_than_its_file() -> None:
    listed = ":env:.index-url='https://b.example'\nglobal.index-url='https://a.example'\ndownload.index-url='no'\n"
    assert parse_pip_settings(listed) == {"index-url": "https://b.example"}


def test_uv_itself_looks_where_pip_would(environment: dict[str, str], tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (tmp_path / "pip.conf").write_text(f"[global]\nfind-links = {wheels}\nindex-url = file://{wheels}\n")
    done = subprocess.run(
        [find_uv_bin(), "pip", "install", "--dry-run", "--target", str(tmp_path / "site"), "cxr-edge-nowhere"],
        env=uv_environment(environment) | {"UV_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cxr-edge-nowhere was not found" in done.stderr
