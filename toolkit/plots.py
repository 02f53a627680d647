"""Plots as SVG text, ready to stand inside an HTML page, readable on light and on dark ground, without a network.

Text and axes take the page's own colour (`currentColor`). Lines differ in dash as well as in colour, so that a plot
printed in grey, or seen by a colour-blind reader, still tells them apart.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from firmware_bridge.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib has no "currentColor"; this colour, which nothing else uses, becomes it in the finished SVG.
_INK = "#010203"
# Contrast of at least 3 to 1 on white and on near-black alike (WCAG 2.2, 1.4.11).
COLOURS = ("#2f7fd1", "#d9662b", "#2a9172", "#b65fa8", "#8a7a2b", "#c0485a")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1)), (0, (8, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True, slots=True)
class Curve:
    """A named line.

    Attributes:
        name: for the legend.
        x: (K,) float.
        y: (K,) float.
    """

    name: str
    x: npt.ArrayLike
    y: npt.ArrayLike


def roc_plot(curves: Sequence[Curve], *, key: str) -> str:
    """ROC curves, x the false and y the true positive rate.

    Args:
        curves: at least one.
        key: a word, unique on the page, that keeps the ids inside the SVG apart from those of other plots.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_INK, alpha=0.35, linewidth=1, linestyle=":")
        for i, curve in enumerate(curves):
            axes.plot(curve.x, curve.y, label=_shown(curve.name), **_line(i))
        _unit_square(axes, "false positive rate (1 − specificity)", "true positive rate (sensitivity)")
        _legend(axes, "lower right")

    return _svg(draw, size_in=(4.6, 4.6), key=key)


def reliability_plot(curves: Sequence[Curve], *, key: str) -> str:
    """Predicted probability against the share of positives found; on the diagonal, probabilities mean what they say.

    Args:
        curves: x the mean probability and y the share of positives of each bin.
        key: see `roc_plot`.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_INK, alpha=0.35, linewidth=1, linestyle=":")
        for i, curve in enumerate(curves):
            axes.plot(
                curve.x, curve.y, label=_shown(curve.name), marker=MARKERS[i % len(MARKERS)], markersize=5, **_line(i)
            )
        _unit_square(axes, "mean predicted probability", "share that is positive")
        _legend(axes, "upper left")

    return _svg(draw, size_in=(4.6, 4.6), key=key)


def confusion_plot(counts: Mapping[str, int], *, labels: tuple[str, str], key: str) -> str:
    """The four outcomes; shade and percentage are shares of each row, that is of what is true.

    Args:
        counts: true_positives, false_negatives, true_negatives, false_positives.
        labels: (negative, positive).
        key: see `roc_plot`.
    """
    table = np.array(
        [
            [counts["true_negatives"], counts["false_positives"]],
            [counts["false_negatives"], counts["true_positives"]],
        ]
    )  # (2, 2) int: rows are the truth, columns the call, negative first
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)

    def draw(axes: Axes) -> None:
        for row in range(2):
            for column in range(2):
                # Right on the diagonal, wrong off it; the shade stays light enough for text in the page's colour.
                colour = COLOURS[0] if row == column else COLOURS[1]
                axes.fill_between(
                    [column, column + 1],
                    row,
                    row + 1,
                    color=colour,
                    alpha=0.08 + 0.42 * shares[row, column],
                    linewidth=0,
                )
                axes.text(column + 0.5, row + 0.44, f"{table[row, column]:,}", ha="center", va="center", fontsize=15)
                axes.text(column + 0.5, row + 0.68, f"{shares[row, column]:.0%}", ha="center", va="center", fontsize=9)
        axes.set(xlim=(0, 2), ylim=(2, 0), xlabel="called", ylabel="is")
        axes.set_xticks([0.5, 1.5], list(map(_shown, labels)))
        axes.set_yticks([0.5, 1.5], list(map(_shown, labels)), rotation=90, va="center")
        axes.tick_params(length=0)
        axes.grid(visible=False)

    return _svg(draw, size_in=(3.6, 3.2), key=key)


def learning_curves(phases: Sequence[Mapping[str, Any]], *, keys: Sequence[str], title: str, key: str) -> str:
    """One or more values over all epochs, the phases one after the other and named above.

    Args:
        phases: `{"name": ..., "epochs": [{"epoch": 1, "loss": ..., ...}, ...]}` as in `history.json`.
        keys: which values of an epoch to draw; those that are missing leave a gap.
        title: what the y axis shows.
        key: see `roc_plot`.
    """
    epochs = [epoch for phase in phases for epoch in phase["epochs"]]

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        x = np.arange(1, len(epochs) + 1)
        for i, name in enumerate(keys):
            y = np.array([np.nan if epoch.get(name) is None else float(epoch[name]) for epoch in epochs])
            if np.isfinite(y).any():
                label = name.replace("val_", "validation ").replace("auroc", "AUROC").replace("_", " ")
                axes.plot(x, y, label=label, marker=MARKERS[i % len(MARKERS)], markersize=4, **_line(i))
        start = 0.5
        for number, phase in enumerate(p for p in phases if p["epochs"]):
            end = start + len(phase["epochs"])
            if number % 2:
                axes.axvspan(start, end, color=_INK, alpha=0.06, linewidth=0)
            # Above the axes, so that no curve runs through it.
            axes.text(
                (start + end) / 2, 1.02, phase["name"], transform=axes.get_xaxis_transform(), ha="center", fontsize=9
            )
            start = end
        axes.set(xlim=(0.5, max(start, 1.5)), xlabel="epoch", ylabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes, "best")

    return _svg(draw, size_in=(6.4, 3.4), key=key)


@dataclass(frozen=True, slots=True)
class Range:
    """A named value with its interval.

    Attributes:
        name: stands at the left.
        value: the dot.
        low: left end of the line; None for none.
        high: right end.
        kind: values of one kind share colour and marker; the number of its colour.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    kind: int = 0


def interval_plot(ranges: Sequence[Range], *, x: str, chance: float, key: str) -> str:
    """Values with their intervals, one under the other, on one scale from 0 to 1.

    Args:
        ranges: from top to bottom.
        x: what the scale shows.
        chance: where a value says nothing; drawn as a line.
        key: see `roc_plot`.
    """

    def draw(axes: Axes) -> None:
        axes.axvline(chance, color=_INK, alpha=0.4, linewidth=1, linestyle=":")
        axes.text(chance, -0.75, "chance", ha="center", va="bottom", fontsize=8)
        for i, one in enumerate(ranges):
            colour = COLOURS[one.kind % len(COLOURS)]
            if one.low is not None and one.high is not None:
                axes.plot([one.low, one.high], [i, i], color=colour, linewidth=2.4, solid_capstyle="butt")
            marker = MARKERS[one.kind % len(MARKERS)]
            axes.plot([one.value], [i], color=colour, marker=marker, markersize=7, clip_on=False)  # 1.0 is on the edge
            axes.text(1.015, i, f"{one.value:.3f}", va="center", fontsize=9)
        axes.set(xlim=(0, 1), ylim=(len(ranges) - 0.4, -0.7), xlabel=x)
        axes.set_yticks(range(len(ranges)), [_shown(one.name) for one in ranges])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")

    return _svg(draw, size_in=(7.4, 0.9 + 0.34 * len(ranges)), key=key)


def _line(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)], "linewidth": 1.9}


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    axes.set_aspect("equal")


def _legend(axes: Axes, place: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, frameon=False, fontsize=8.5, handlelength=2.8)


def _svg(draw: Callable[[Axes], None], *, size_in: tuple[float, float], key: str) -> str:
    """What `draw` puts on the axes of a figure of `size_in` (width, height in inches), as SVG for a page."""
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError.for_module("matplotlib", "train") from error
    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text: searchable, small, and in the page's font
        "svg.hashsalt": key,
        "text.parse_math": False,  # a dollar sign in a name is a dollar sign
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": _INK,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "grid.color": _INK,
        "grid.alpha": 0.12,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    # Own figure and canvas instead of pyplot: no global state, and no display is needed.
    with mpl.rc_context(style):
        figure = Figure(figsize=size_in, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        text = io.StringIO()
        with warnings.catch_warnings():
            # The page's font has the letters that the one Matplotlib measures with lacks.
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(text.getvalue(), key)


def _shown(text: str) -> str:
    # File names and labels may hold bytes that are no text, which Matplotlib refuses.
    return text.encode("utf-8", "backslashreplace").decode()


def _for_page(svg: str, key: str) -> str:
    """The `<svg>` element alone, in the page's colour and font, with ids that are unique on the page."""
    svg = svg[svg.index("<svg") :]
    # A style element inside an inline SVG would rule the whole page.
    svg = re.sub(r"<(metadata|style).*?</\1>\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace(_INK, "currentColor")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{key}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r" ?font-family: [^;\"]*;?", "", svg)
    # Size, role and name come from the page; here stays the viewBox.
    head, body = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} aria-hidden="true" focusable="false">{body}'.strip()
