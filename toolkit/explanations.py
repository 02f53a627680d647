"""`cxr-edge explain`: where the scores of a model's files come from, right and wrong, sure and unsure.

The maps are closed forms over the file's own feature maps, as on the device: Grad-CAM (Selvaraju 2017), Grad-CAM++.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from firmware_bridge.decode import decode
from firmware_bridge.errors import ConfigError, ImageError, InputError
from firmware_bridge.explain import grad_cam_plus_plus, lungs_of_places, numbers_of, overlay
from firmware_bridge.result import NOTICE, utc_now
from firmware_bridge.score import Scorer
from toolkit.data.index import Xray
from toolkit.data.load import stretch_back
from toolkit.files import write_atomically
from toolkit.progress import progress
from toolkit.report_explanations import explanation_page
from toolkit.score_index import NamedIndex
from toolkit.summary import Json
from toolkit.under_test import ModelUnderTest

Grey = npt.NDArray[np.uint8]
Cam = npt.NDArray[np.float32]
JSON_NAME, HTML_NAME = "explanations.json", "explanations.html"
GROUPS = ("right and sure", "right and unsure", "wrong and sure", "wrong and unsure")


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """One X-ray as one model sees it.

    Attributes:
        row: the X-ray.
        positive: what its label says.
        probability: calibrated, 0 to 1.
        threshold: of the model.
        pixels: (S, S) uint8, what the model saw.
        cam: (h, w) float32, 0 to 1, Grad-CAM.
        cam_plus_plus: (h, w) float32, 0 to 1.
        lung_share: of the Grad-CAM++ map's sum, what lies in the lungs; None where nobody looked or the map is empty.
        lungs: (h, w) float32, 0 to 1, the lungs' share of each place of the map; None where nobody looked.
    """

    row: Xray
    positive: bool
    probability: float
    threshold: float
    pixels: Grey
    cam: Cam
    cam_plus_plus: Cam
    lung_share: float | None
    lungs: Cam | None

    @property
    def right(self) -> bool:
        """Whether the decision agrees with the label."""
        return (self.probability >= self.threshold) == self.positive

    @property
    def sureness(self) -> float:
        """How far from the threshold, 0 to 1, as a share of the way to 0 or 1."""
        room = 1.0 - self.threshold if self.probability >= self.threshold else self.threshold
        return abs(self.probability - self.threshold) / max(room, 1e-9)


def explain(
    models: Sequence[ModelUnderTest],
    named: NamedIndex,
    *,
    out: Path,
    labels: tuple[str, str],
    each: int = 3,
    limit: int = 200,
    randomized: Sequence[Json] = (),
) -> Json:
    """Explain X-rays of an index with every model; write overlays, `explanations.json` and `explanations.html`.

    Args:
        models: the gallery's X-rays are chosen by the first one.
        named: the X-rays.
        out: folder, made where missing.
        labels: (negative, positive); rows of other labels are left out.
        each: X-rays in each of `GROUPS`.
        limit: at most so many X-rays are scored, spread over the index.
        randomized: rows of `toolkit.randomize`, for the page.

    Returns:
        What `explanations.json` holds.

    Raises:
        ConfigError: a model without its head or its threshold.
        InputError: no X-ray can be used.
    """
    rows = [row for row in named.index if row.label in labels]
    rows = rows[:: max(1, -(-len(rows) // limit))]
    by_model = {model.name: _explained(model, rows, labels[1]) for model in models}
    first = by_model[models[0].name]
    if not first:
        raise InputError(
            f"no X-ray of '{named.name}' can be explained",
            expected=f"readable X-rays labelled '{labels[0]}' or '{labels[1]}'",
            came=f"{len(rows)} rows with these labels, none readable",
            do="check the index with: cxr-edge data audit",
        )
    chosen = {group: _chosen(list(first.values()), group, each) for group in GROUPS}
    gallery = [
        _shown(number, group, path, by_model, out)
        for group, paths in chosen.items()
        for number, path in enumerate(paths, start=1)
    ]
    said: Json = {
        "schema": 1,
        "kind": "cxr-edge-explanations",
        "notice": NOTICE,
        "created": utc_now(),
        "set": named.name,
        "images": len(first),
        "models": [_summary(name, list(found.values())) for name, found in by_model.items()],
        "gallery": gallery,
        "randomized": list(randomized),
    }
    write_atomically(out / JSON_NAME, json.dumps(said, indent=1, allow_nan=False) + "\n")
    write_atomically(out / HTML_NAME, explanation_page(said, out))
    return said


def sanity_rows(
    source: Path, named: NamedIndex, model: ModelUnderTest, *, labels: tuple[str, str], images: int = 8
) -> list[Json]:
    """Rows of `toolkit.randomize.randomization` for the float model of `source` on a few positive X-rays of the index.

    Args:
        source: the folder of a run, or the file of a bundle; empty rows for a bundle that did not come with cxr-edge,
            since no bundle holds the weights before pruning.
        named: the X-rays.
        model: which of them are positive, and what it sees of them.
        labels: (negative, positive).
        images: at most so many.

    Raises:
        ConfigError, ModelError: the run cannot be read.
    """
    from toolkit.randomize import randomization, shipped_model, trained_model

    floating = trained_model(source) if source.is_dir() else shipped_model(source)
    if floating is None:
        return []
    rows = [row for row in named.index if row.label == labels[1]]
    found = _explained(model, rows[:: max(1, -(-len(rows) // images))], labels[1])
    if not found:
        return []
    return randomization(floating, np.stack([one.pixels for one in found.values()]))


def grad_cam(features: Cam, weights: Cam) -> Cam:
    """Grad-CAM in closed form: (h, w) float32, 0 to 1, of maps (h, w, C) that are pooled into one linear layer (C,)."""
    cam = np.maximum(np.asarray(features, np.float32) @ np.asarray(weights, np.float32), 0.0)
    peak = float(cam.max())
    return np.asarray(cam / peak if peak > 0 else np.zeros_like(cam), np.float32)


def scorer_of(model: ModelUnderTest) -> Scorer:
    """The device's scorer of `model`.

    Raises:
        ConfigError: it has no head or no threshold: then there is no closed form, or no right and wrong.
    """
    if model.head is None or model.threshold is None:
        raise ConfigError(
            f"{model.file} cannot be explained",
            expected="a model with its head (head.*.npy) and its threshold (calibration.json, or --threshold)",
            came="no head" if model.head is None else "no threshold",
            do="name the run or the bundle instead of the bare file",
        )
    return model.scorer()


def _explained(model: ModelUnderTest, rows: Sequence[Xray], positive: str) -> dict[Path, Explained]:
    scorer = scorer_of(model)
    found: dict[Path, Explained] = {}
    for row in progress(rows, f"explaining with {model.name}"):
        try:
            found[row.path] = _one(scorer, row, positive)
        except ImageError:
            continue  # `cxr-edge evaluate` names what cannot be read; here it is only not shown
    return found


def _one(scorer: Scorer, row: Xray, positive: str) -> Explained:
    decoded = decode(row.path, min_side_px=scorer.preprocessing.decode_min_side_px)
    score = scorer.score_decoded(replace(decoded, pixels=stretch_back(decoded.pixels, row)))
    features, weights = score.output.real_features(), scorer.head.weights
    cam_plus_plus = grad_cam_plus_plus(features, weights)
    return Explained(
        row=row,
        positive=row.label == positive,
        probability=score.probability,
        threshold=scorer.calibration.threshold,
        pixels=score.pixels,
        cam=grad_cam(features, weights),
        cam_plus_plus=cam_plus_plus,
        lung_share=numbers_of(cam_plus_plus, score.prepared)["lung_share"],
        lungs=lungs_of_places(cam_plus_plus.shape, score.prepared),
    )


def _chosen(found: Sequence[Explained], group: str, each: int) -> list[Path]:
    """The X-rays that stand for a group: the surest of the sure, the least sure of the unsure, both classes in turn."""
    right, sure = group.startswith("right"), group.endswith("and sure")
    members = [one for one in found if one.right == right]
    ordered = sorted(members, key=lambda one: one.sureness, reverse=sure)
    # Nothing is both sure and unsure: of an odd number the middle one counts as sure.
    half = (len(ordered) + sure) // 2
    sides = [[one.row.path for one in ordered[:half] if one.positive == side] for side in (True, False)]
    turns = [path for pair in zip(*sides, strict=False) for path in pair]
    rest = [path for side in sides for path in side if path not in turns]
    return (turns + rest)[:each]


def _shown(number: int, group: str, path: Path, by_model: dict[str, dict[Path, Explained]], out: Path) -> Json:
    views = []
    for name, found in by_model.items():
        one = found.get(path)
        if one is None:
            continue
        stem = f"{group.replace(' ', '-')}-{number}.{name}"
        for kind, cam in (("grad-cam", one.cam), ("grad-cam-plus-plus", one.cam_plus_plus)):
            write_atomically(out / "overlays" / f"{stem}.{kind}.png", _png(overlay(one.pixels, cam)))
        views.append(
            {
                "model": name,
                "probability": one.probability,
                "lung_share": one.lung_share,
                "overlays": {kind: f"overlays/{stem}.{kind}.png" for kind in ("grad-cam", "grad-cam-plus-plus")},
            }
        )
    first = next(iter(by_model.values()))[path]
    return {"group": group, "label": first.row.label, "views": views}


def _png(pixels: Grey) -> bytes:
    """(H, W, 3) uint8, red-green-blue."""
    ok, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert ok  # a uint8 array always encodes
    return encoded.tobytes()


def _summary(name: str, found: Sequence[Explained]) -> Json:
    """Lung shares of the X-rays that the model calls positive: a map of a negative shows what little spoke for it.

    Two shares stand beside it. A map without aim has that of the lungs in the picture; the mean map of all these
    X-rays, laid over each of them, has what comes from where lungs usually are: only what is above that is aimed.
    """
    positives = [one for one in found if one.probability >= one.threshold]
    told = [(one.cam_plus_plus, one.lungs, one.lung_share) for one in positives]
    maps = [(cam / cam.sum(), lungs, share) for cam, lungs, share in told if lungs is not None and share is not None]
    common: Cam = np.mean([cam for cam, _, _ in maps], axis=0) if maps else np.zeros((1, 1), np.float32)
    return {
        "model": name,
        "images": len(found),
        "called_positive": len(positives),
        "right": sum(one.right for one in found),
        "map": list(found[0].cam_plus_plus.shape) if found else None,
        "lung_share": float(np.mean([share for _, _, share in maps])) if maps else None,
        "lung_share_of_mean_map": float(np.mean([(common * lungs).sum() for _, lungs, _ in maps])) if maps else None,
        "lung_area": float(np.mean([lungs.mean() for _, lungs, _ in maps])) if maps else None,
        "empty_maps": sum(not one.cam_plus_plus.any() for one in found),
    }
