"""The model card in a bundle: what it is, what it is meant for, and its figures by set and by group, as Markdown.

Its parts follow Mitchell et al. 2019, "Model Cards for Model Reporting". What only people know (intended use, where the
X-rays come from, licences) is a text that they give; all else comes from the manifest and from `evaluation.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from firmware_bridge.bundle import Bundle, open_bundle
from firmware_bridge.errors import BundleError, ConfigError, ResourceError
from firmware_bridge.manifest import CalibrationEntry, Manifest
from firmware_bridge.result import NOTICE
from toolkit.bundle import made_now, write_bundle
from toolkit.confounding import CONFOUNDING_COLUMNS, confounding_rows
from toolkit.origins import learned_before
from toolkit.summary import EVALUATION_KIND, MIN_GROUP_PATIENTS
from toolkit.summary_text import (
    markdown_table,
    megabytes,
    metric_columns,
    metric_rows,
    number,
    percent,
    plain,
    seen_warnings,
    shortcut_interval,
    with_interval,
    words,
)
from toolkit.under_test import ModelUnderTest

Json = Mapping[str, Any]
CARD = "MODEL_CARD.md"
_NOBODY = (
    "Nobody has written what this model is meant for. Until somebody has (`cxr-edge bundle add-card --about`): for "
    "research on X-rays like those that it learned from, and for no patient."
)
_BY_GROUP = ("auroc", "sensitivity", "specificity")


def add_card(path: Path, *, evaluation: Json, about: str = "", out: Path | None = None) -> Path:
    """Put a model card into a bundle, in the place of the one that it has. What was signed is unsigned then.

    Args:
        path: the bundle.
        evaluation: as `evaluation.json` holds it; empty: a card without figures.
        about: Markdown for people: intended use, data, licences, known limits.
        out: where the new one goes; None: in its place, atomically.

    Raises:
        BundleError: it cannot be opened, or the figures are those of another file.
        ConfigError: the figures are not as `cxr-edge evaluate` writes them.
        ResourceError: the new one cannot be written.
    """
    with open_bundle(path) as bundle:
        files: dict[str, bytes | Path] = {name: bundle.read(name) for name in bundle.manifest.files}
        try:
            figures = _own_figures(bundle, evaluation)
            files[CARD] = model_card(bundle.manifest, figures, about=about).encode()
        # JSON of the right kind whose inside is another: written by another version, or mended by hand.
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise _no_evaluation("the evaluation", f"{type(error).__name__}: {error}") from error
        return write_bundle(out or path, replace(bundle.manifest, created=made_now()), files)


def read_card(path: Path) -> str:
    """The card in a bundle.

    Raises:
        BundleError: it cannot be opened, or has none.
    """
    with open_bundle(path) as bundle:
        if CARD not in bundle.manifest.files:
            raise BundleError(
                f"bundle '{bundle.manifest.name}' has no model card",
                expected=f"{CARD} in it",
                came="none",
                do="put one in with `cxr-edge bundle add-card`",
            )
        return bundle.read(CARD).decode()


def read_evaluation(path: Path) -> Json:
    """What `cxr-edge evaluate` wrote.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _no_evaluation(path, str(error)) from error
    if not isinstance(told, dict) or told.get("kind") != EVALUATION_KIND:
        raise _no_evaluation(path, "something else")
    return told


def _no_evaluation(path: Path | str, came: str) -> ConfigError:
    return ConfigError(
        f"{path} cannot be read",
        expected="the evaluation.json of `cxr-edge evaluate`",
        came=came,
        do="evaluate the bundle, and name that file",
    )


def read_about(path: Path) -> str:
    """The text that people wrote about a model.

    Raises:
        ResourceError: it cannot be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ResourceError(
            f"{path} cannot be read", expected="Markdown in UTF-8", came=str(error), do="check the path"
        ) from error


def model_card(manifest: Manifest, evaluation: Json, *, about: str = "") -> str:
    """The card's text. See `add_card`."""
    parts = [f"# Model card: {manifest.name}", f"**{NOTICE}**", about.strip() or _NOBODY]
    parts += ["## What is in the bundle", _facts(manifest)]
    parts += _figures(evaluation) if evaluation.get("models") else ["## Figures", "None: nobody has evaluated it."]
    parts += _suitability(manifest)
    return "\n\n".join(parts) + "\n"


def outdated_card(card: str, *, name: str, sets: str) -> str:
    """The card of a bundle whose calibration and threshold were fitted anew, with a warning in front.

    Args:
        card: of the bundle before.
        name: of the new bundle.
        sets: the X-rays that it was fitted to.
    """
    said = (
        f"# {name}: fitted to other X-rays\n\n**Temperature, bias and threshold were fitted anew, to '{sets}'.** The "
        "model is the same, so AUROC and AUPRC below hold. Sensitivity, specificity, PPV, NPV, ECE, Brier and the "
        "threshold below are those of the bundle before."
    )
    return f"{said}\n\n{card}"


def _own_figures(bundle: Bundle, evaluation: Json) -> Json:
    """The evaluation without models that are not in the bundle: a run's has its float file too."""
    own = {hashlib.sha256(bundle.read(entry.file)).hexdigest(): entry.calibration for entry in bundle.manifest.models}
    same = [model for model in evaluation.get("models", ()) if model["sha256"] in own]
    models = [model for model in same if same_calibration(model, own[model["sha256"]])]
    if evaluation and not models:
        came = ", ".join(model["file"] for model in evaluation["models"]) or "no model"
        raise BundleError(
            f"these are no figures of bundle '{bundle.manifest.name}'",
            expected="an evaluation of one of its own model files, at its own temperature, bias and threshold",
            came=came + (", at others" if same else ""),
            do="evaluate the bundle itself: cxr-edge evaluate --bundle BUNDLE --index ...",
        )
    return {**evaluation, "models": models}


def same_calibration(model: Json, own: CalibrationEntry | ModelUnderTest) -> bool:
    """Whether a model of an evaluation decided as `own` does; else its figures are those of another bundle."""
    pairs = [
        (model[key] or 0.0, getattr(own, key) or 0.0) for key in ("temperature", "bias", "threshold") if key in model
    ]
    return all(isinstance(told, float | int) and math.isclose(told, value, rel_tol=1e-6) for told, value in pairs)


def _facts(manifest: Manifest) -> str:
    steps = ", ".join(str(step["name"]) for step in manifest.preprocessing["steps"])
    rows = [
        ["labels", f"{manifest.label_positive} (positive), {manifest.label_negative} (negative)"],
        ["steps before the model", steps],
    ]
    for entry in manifest.models:
        fitted = entry.calibration
        size = megabytes(manifest.files[entry.file].size_bytes)
        wished = f", chosen for a sensitivity of {fitted.wished_sensitivity:g}" if fitted.wished_sensitivity else ""
        rows.append([entry.file, f"{entry.precision}, {size}; threshold {number(fitted.threshold)}{wished}"])
    if "images" in manifest.data:
        left_out = manifest.data.get("train_left_out")
        less = f", less {left_out} that were unreadable or without lungs" if left_out else ""
        rows.append(["index", f"{manifest.data['images']} X-rays, {manifest.data['train']} of them trained on{less}"])
    if before := learned_before(manifest.data):
        rows.append(["started from, or was taught by", f"{', '.join(before)}, with X-rays that are not counted here"])
    if "pruned_kernels" in manifest.sparsity:
        rows.append(["zeros in the pruned kernels", percent(manifest.sparsity["pruned_kernels"])])
    return markdown_table(["", ""], rows)


def _figures(evaluation: Json) -> list[str]:
    columns = metric_columns(evaluation)
    parts = [
        "## Figures",
        "Each is of the file itself, with its 95% interval over patients. A set whose name begins with 'inside' comes "
        "from where the training X-rays come from.",
        markdown_table(columns, metric_rows(evaluation)),
        *seen_warnings(evaluation),
    ]
    parts += [f"### {model['name']} by group" + _groups(evaluation, model["name"]) for model in evaluation["models"]]
    held_still = [[*row[:3], *map(with_interval, row[3:])] for row in confounding_rows(evaluation)]
    if held_still:
        parts += [
            "### Held still",
            "Within: AUROC among X-rays of the same view, sex or age group. By itself: how well the score tells the "
            "two commonest apart among X-rays without the finding; 0.5 is not at all.",
            markdown_table(CONFOUNDING_COLUMNS, held_still),
        ]
    known = [one for one in evaluation["sets"] if one["shortcuts"]]
    if known:
        rows = [
            [one["name"], *(with_interval(shortcut_interval(found)) for found in one["shortcuts"].values())]
            for one in known
        ]
        parts += [
            "### The file alone",
            "AUROC of attributes of the file, without looking at the lungs: what a shortcut would reach.",
            markdown_table(["Set", *map(words, known[0]["shortcuts"])], rows),
        ]
    return parts


def _groups(evaluation: Json, model: str) -> str:
    rows: list[list[str]] = []
    few: list[str] = []
    for one in evaluation["sets"]:
        for group in one["results"][model]["groups"]:
            name = f"{group['by']} {group['group']}"
            if group["enough"]:
                figures = [with_interval(group["metrics"].get(metric)) for metric in _BY_GROUP]
                rows.append([one["name"], name, f"{group['images']} ({group['positives']} positive)", *figures])
            else:
                few.append(f"{one['name']}, {plain(name)} ({group['images']})")
    text = ""
    if rows:
        text += "\n\n" + markdown_table(["Set", "Group", "X-rays", "AUROC", "Sensitivity", "Specificity"], rows)
    if few:
        text += f"\n\nFewer than {MIN_GROUP_PATIENTS} patients of one class, so no figure: " + "; ".join(few) + "."
    return text or "\n\nNo X-ray says age, sex or view."


def _suitability(manifest: Manifest) -> list[str]:
    told = manifest.suitability or {}
    rows = [
        [split, str(found["images"]), percent(found["accepted"]), percent(found["outside"])]
        for split, found in told.items()
        if isinstance(found, Mapping) and "accepted" in found
    ]
    if not rows:
        return []
    return [
        "## What it refuses",
        "What is no upright frontal chest X-ray gets a reason instead of a score. Of the X-rays held out of training "
        "(validation set the limits):",
        markdown_table(["Split", "X-rays", "accepted", "accepted, but unlike those trained on"], rows),
        "It knows nothing of age, sex or disease: that an X-ray is accepted does not make the model good at it.",
    ]
