"""A report page: sections of facts, notes, tables and figures, rendered to one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.errors import MissingExtraError
from firmware_bridge.result import NOTICE, utc_now

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Cell:
    """A table cell: its text, and smaller text below (an interval, a file's folder)."""

    text: str
    small: str = ""


Row = Sequence["Cell | str"]


@dataclass(frozen=True, slots=True)
class Facts:
    """Large numbers with their meaning.

    Attributes:
        items: (what it is, the number, a remark).
    """

    items: Sequence[tuple[str, str, str]]
    kind: str = "facts"


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence that must not be missed.

    Attributes:
        text: what it says.
        tone: "good", "warn", "bad" or "plain"; said in words too, for it is shown as a colour.
    """

    text: str
    tone: str = "plain"
    kind: str = "note"


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows.
        columns: headings.
        rows: the first cell of each names the row.
        text_columns: that many columns, from the left, are text; the others are numbers, right-aligned.
        folded: shown only when asked for.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    text_columns: int = 1
    folded: bool = False
    kind: str = "table"


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot.

    Attributes:
        svg: from `toolkit.plots`, which escapes all text in it.
        caption: what it shows.
        alt: what it says, for who cannot see it.
    """

    svg: str
    caption: str
    alt: str


@dataclass(frozen=True, slots=True)
class Figures:
    """Plots side by side where there is room."""

    figures: Sequence[Figure]
    kind: str = "figures"


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = "text"


@dataclass(frozen=True, slots=True)
class Code:
    """Text as it stands in a file, folded away."""

    caption: str
    text: str
    kind: str = "code"


Block = Facts | Note | Table | Figures | Text | Code


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it.

    Attributes:
        id: for links; unique on the page.
        title: the heading.
        blocks: from top to bottom.
    """

    id: str
    title: str
    blocks: Sequence[Block]


def render(title: str, headline: str, sections: Sequence[Section]) -> str:
    """The page as HTML text.

    Args:
        title: of the document.
        headline: the one sentence to take away.
        sections: those without blocks are left out.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError.for_module("jinja2", "train") from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        title=title,
        headline=headline,
        notice=NOTICE,
        made=utc_now()[:16].replace("T", " ") + " UTC",
        sections=[section for section in sections if section.blocks],
    )
