"""docs/ builds as a site without a warning, and the site fetches nothing from anywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

_FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


class Fetches(HTMLParser):
    """What a browser fetches by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name == _FETCHED.get(tag)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("furo", reason="needs the extra 'docs'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(folder / "cache")]
    done = subprocess.run(
        [*command, str(REPOSITORY / "docs"), str(folder / "html")], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_it_has_every_page(site: Path) -> None:
    docs = REPOSITORY / "docs"
    pages = {page.relative_to(docs).with_suffix(".html") for page in docs.rglob("*.md")}
    assert {page.relative_to(site) for page in site.rglob("*.html")} >= pages


def test_it_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetches = Fetches()
        fetches.feed(page.read_text(encoding="utf-8"))
        assert fetches.found, page.name
        assert [place for place in fetches.found if re.match(r"(https?:)?//", place)] == [], page.name
    for sheet in site.glob("_static/**/*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def test_the_reference_is_read_from_the_code(site: Path) -> None:
    commands = (site / "cli.html").read_text(encoding="utf-8")
    settings = (site / "settings.html").read_text(encoding="utf-8")
    metrics = (site / "metrics.html").read_text(encoding="utf-8")
    assert "--max-int8-loss" in commands
    assert "CXR_EDGE_RETENTION_RESULTS_DAYS" in settings
    assert "cxr_edge_temperature_celsius" in metrics


def test_every_page_says_that_it_is_not_for_diagnosis(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert "Not for diagnosis" in page.read_text(encoding="utf-8"), page.name
