"""The part of docs/benchmarks.md that a run writes, and its pictures. What people wrote around it stays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.plot import cost_plot, time_plot
from benchmarks.table import tables
from firmware_bridge.errors import ConfigError
from toolkit.files import write_atomically

PAGE, TIME_PLOT, COST_PLOT = "benchmarks.md", "benchmarks-time.svg", "benchmarks-cost.svg"
BEGIN, END = "<!-- written by `make benchmarks`: begin -->", "<!-- written by `make benchmarks`: end -->"


def update(report: Mapping[str, Any], folder: Path) -> None:
    """Write the report between the two marks of the page in `folder`, and its pictures beside it.

    Raises:
        ConfigError: the page has no such marks.
        MissingExtraError: matplotlib is not installed.
    """
    page = folder / PAGE
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(
            f"{page} has no place for the tables",
            expected=f"the lines {BEGIN} and {END}",
            came="a page without both",
            do="put them where the tables should stand, or give --no-page",
        )
    fewest = min(row["threads"] for row in report["rows"])
    write_atomically(folder / TIME_PLOT, time_plot(report, threads=fewest))
    write_atomically(folder / COST_PLOT, cost_plot(report))
    pictures = f"![Time from file to score, by stage]({TIME_PLOT})\n\n![Packages on disk and peak memory]({COST_PLOT})"
    write_atomically(page, f"{before}{BEGIN}\n\n{tables(report)}\n\n{pictures}\n\n{END}{after}")
