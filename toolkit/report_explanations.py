"""The page of explanations: a gallery of overlays, lung shares, and the sanity check."""

from __future__ import annotations

import base64
from pathlib import Path

from toolkit.report_page import Block, Figure, Figures, Note, Section, Table, Text, render
from toolkit.summary import Json
from toolkit.summary_text import number, percent

_KINDS = {"grad-cam": "Grad-CAM", "grad-cam-plus-plus": "Grad-CAM++"}


def explanation_page(said: Json, folder: Path) -> str:
    """`explanations.json` and the overlays below `folder` as one HTML page.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    groups = list(dict.fromkeys(one["group"] for one in said["gallery"]))
    sections = [Section("shares", "Inside the lungs", _share_blocks(said))]
    sections += [
        Section(group.replace(" ", "-"), group.capitalize(), _gallery(said, group, folder)) for group in groups
    ]
    sections.append(Section("sanity", "Do the maps depend on the weights?", _sanity_blocks(said)))
    return render("Explanations", headline(said), sections)


def headline(said: Json) -> str:
    """The one sentence to take away."""
    first = said["models"][0]
    if first["lung_share"] is None:
        return f"{said['images']} X-rays explained; where the lungs lie is not known to this model."
    return (
        f"{percent(first['lung_share'])} of what speaks for the positive label lies in the lungs, which cover "
        f"{percent(first['lung_area'])} of what the model sees; one map for all of them, their mean, would have "
        f"{percent(first['lung_share_of_mean_map'])}."
    )


def _share_blocks(said: Json) -> list[Block]:
    rows = [
        [
            one["model"],
            str(one["images"]),
            str(one["called_positive"]),
            *(percent(one[key]) for key in ("lung_share", "lung_share_of_mean_map", "lung_area")),
            str(one["empty_maps"]),
        ]
        for one in said["models"]
    ]
    columns = [
        "model",
        "X-rays",
        "called positive",
        "map in the lungs",
        "mean map",
        "lungs in the picture",
        "empty maps",
    ]
    text = (
        "Mean share of the Grad-CAM++ map inside the lungs, over X-rays called positive. A map without aim would have "
        "the share that the lungs have of the picture; the mean map, laid over each X-ray, has what comes from where "
        "lungs usually are, so that only what is above it is aimed. An empty map: nothing spoke for the positive label."
    )
    return [Text(text), Table("Lung shares", columns, rows)]


def _gallery(said: Json, group: str, folder: Path) -> list[Block]:
    figures = [
        Figure(
            svg=_embedded(folder / view["overlays"][kind]),
            caption=f"{one['label']}: {view['model']} {number(view['probability'])}, {title}",
            alt=f"X-ray labelled {one['label']} with the {title} map of {view['model']} over it",
        )
        for one in said["gallery"]
        if one["group"] == group
        for view in one["views"]
        for kind, title in _KINDS.items()
    ]
    return [Figures(figures)] if figures else []


def _embedded(file: Path) -> str:
    """A PNG inside an SVG, so that the page stays one file."""
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    return (
        '<svg viewBox="0 0 224 224" xmlns="http://www.w3.org/2000/svg">'
        f'<image width="224" height="224" href="data:image/png;base64,{data}"/></svg>'
    )


def _sanity_blocks(said: Json) -> list[Block]:
    if not said["randomized"]:
        return []
    rows = [[one["from"], number(one["share"]), number(one["correlation"])] for one in said["randomized"]]
    last = said["randomized"][-1]["correlation"]
    text = (
        "Weights are shuffled within each layer, from the head downwards (Adebayo 2018); the rank correlation of each "
        "map with that of the trained model is averaged over the X-rays. Maps that stay the same would show the "
        "picture's edges, not what the model learned."
    )
    note = Note(
        f"With all weights shuffled the maps keep a rank correlation of {number(last)} with the trained model's.",
        "good" if abs(last) < 0.5 else "bad",
    )
    return [
        Text(text),
        note,
        Table("Cascading randomization", ["shuffled from", "of all weights", "correlation"], rows),
    ]
