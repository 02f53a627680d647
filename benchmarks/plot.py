"""The report as pictures: where the time goes, and what each contender costs. SVG on white, for the documentation."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import B0, LITE0
from benchmarks.table import MB, TITLES
from firmware_bridge.errors import MissingExtraError
from toolkit.benchmark.stopwatch import FOLDER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STAGES = ("decode", "lungs", "preprocess", "infer")
# From dark to light, so that they are told apart in grey too; hatches make the file six times as large.
_COLOURS = ("#1b3a5b", "#2f7fd1", "#7fb2e5", "#d9c27a")


def time_plot(report: Mapping[str, Any], *, threads: int) -> str:
    """Medians of the stages from file to score, one bar a contender, one panel a network; dots are for the folder."""

    def draw(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
        names = [row["name"] for row in rows]
        left = [0.0] * len(rows)
        for stage, colour in zip(_STAGES, _COLOURS, strict=True):
            widths = [row["stages_ms"].get(stage, {}).get("p50", 0.0) for row in rows]
            if any(widths):
                axes.barh(names, widths, left=left, color=colour, edgecolor="white", label=stage)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        folder = [row["stages_ms"][FOLDER]["p50"] for row in rows]
        axes.plot(folder, names, "kD", markersize=4, linestyle="", label="one of a folder")
        axes.set_xlabel(f"milliseconds, {threads} thread{'s' * (threads > 1)}")
        axes.legend(frameon=False, fontsize=8)

    rows = [row for row in report["rows"] if row["threads"] == threads]
    return _svg(draw, rows)


def cost_plot(report: Mapping[str, Any]) -> str:
    """Packages on disk as bars and peak memory as dots, with the fewest threads."""

    def draw(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
        names = [row["name"] for row in rows]
        packages = [report["package_bytes"][row["environment"]] / MB for row in rows]
        axes.barh(names, packages, color=_COLOURS[2], edgecolor="white", label="packages on disk")
        axes.plot(
            [row["peak_bytes"] / MB for row in rows], names, "kD", markersize=4, linestyle="", label="peak memory"
        )
        axes.set_xscale("log")
        axes.set_xlabel("MB, logarithmic")
        axes.legend(frameon=False, fontsize=8)

    fewest = min(row["threads"] for row in report["rows"])
    return _svg(draw, [row for row in report["rows"] if row["threads"] == fewest])


def _svg(draw: Any, rows: Sequence[Mapping[str, Any]]) -> str:
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError.for_module("matplotlib", "train") from error
    groups = [group for group in (B0, LITE0) if any(row["network"] == group for row in rows)]
    heights = [sum(row["network"] == group for row in rows) for group in groups]
    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text: searchable and small
        "svg.hashsalt": "benchmarks",
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    # Own figure and canvas instead of pyplot: no global state, and no display is needed.
    with mpl.rc_context(style):
        figure = Figure(figsize=(8, 1.6 + 0.32 * sum(heights)), layout="constrained")
        FigureCanvasSVG(figure)
        panels = figure.subplots(len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for axes, group in zip(panels, groups, strict=True):
            draw(axes, [row for row in rows if row["network"] == group])
            axes.set_title(TITLES[group], loc="left", fontsize=10)
            axes.invert_yaxis()
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
