"""Sphinx's configuration: `make docs` builds the site, with every warning an error."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

from firmware_bridge.result import NOTICE

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))

project = "cxr-edge"
author = "the cxr-edge authors"
language = "en"
smartquotes = False  # they make one dash of the two before an option

extensions = ["myst_parser", "sphinx_click", "from_code"]
exclude_patterns = ["_ext"]
nitpicky = True

myst_enable_extensions = ["attrs_block", "colon_fence"]
myst_heading_anchors = 4
# `{toctree}` and the like alone; a page reads well as plain Markdown too.
myst_fence_as_directive = []

# The colours of a code block in light and dark. JSON with "…" in it is an example, and no error.
pygments_style = "tango"
pygments_dark_style = "github-dark"

# Furo's fonts are the system's, its scripts are its own: nothing is fetched from anywhere.
html_theme = "furo"
html_title = "cxr-edge"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_favicon = "../firmware_bridge/page/static/icon.svg"
html_theme_options = {"announcement": NOTICE, "footer_icons": [], "top_of_page_buttons": []}

# In the lists of the first page: it stands for the pages that no list names, so that a new feature's page is there.
OTHERS = "all-others"


def only_pages_that_exist(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Make the first page's lists fit the pages that are there: a feature's page comes and goes with the feature."""
    if docname != "index":
        return
    there = {page.relative_to(HERE).with_suffix("").as_posix() for page in HERE.rglob("*.md")}
    lines = source[0].splitlines()
    others = "\n".join(sorted(there - {*lines, "index"}))
    in_list, kept = False, []
    for line in lines:
        in_list = line.startswith("```{toctree}") or (in_list and line != "```")
        if line == OTHERS:
            kept += [others] if others else []
        elif not in_list or not line or line.startswith(("`", ":")) or line in there:
            kept.append(line)
    source[0] = "\n".join(kept)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", only_pages_that_exist)
