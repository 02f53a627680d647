"""`cxr-edge suitability`: what a bundle accepts and refuses, by the agent's own scorer, on sets of any pictures."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_bridge.bundle import Bundle
from firmware_bridge.decode import decode
from firmware_bridge.errors import ConfigError, ImageError, UnsuitableImage
from firmware_bridge.score import Scorer
from toolkit.data.index import Xray
from toolkit.data.load import stretch_back
from toolkit.evaluate import parse_named_index
from toolkit.progress import progress

Grey = npt.NDArray[np.uint8]
UNREADABLE = "unreadable"
_KEPT = 0.6  # of one side, in what `cropped` leaves


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Pictures under one name; those of a folder have neither label nor source."""

    name: str
    rows: tuple[Xray, ...]


@dataclass(slots=True)
class Verdict:
    """How the pictures of one set were judged.

    Attributes:
        name: of the set, with the alteration behind it.
        pictures: how many.
        scored: accepted, whatever the population.
        outside: of those, how many are outside the training population.
        reasons: refusals by reason; "unreadable" for what no decoder takes.
        by_label: label to [pictures, refused]: a refusal that falls on one class is a decision in disguise.
    """

    name: str
    pictures: int = 0
    scored: int = 0
    outside: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    by_label: dict[str, list[int]] = field(default_factory=dict)

    def add(self, reason: str, *, outside: bool, label: str) -> None:
        """Count one picture; `reason` is empty where it was scored."""
        self.pictures += 1
        counts = self.by_label.setdefault(label, [0, 0])
        counts[0] += 1
        if reason:
            self.reasons[reason] += 1
            counts[1] += 1
        else:
            self.scored += 1
            self.outside += outside

    def to_json(self) -> dict[str, Any]:
        """The counts."""
        return {
            "name": self.name,
            "pictures": self.pictures,
            "scored": self.scored,
            "outside": self.outside,
            "reasons": dict(self.reasons.most_common()),
            "by_label": {label: {"pictures": n, "refused": r} for label, (n, r) in sorted(self.by_label.items())},
        }


def read_set(text: str) -> PictureSet:
    """`NAME=INDEX.csv[:SPLIT]`, or `NAME=FOLDER` with any pictures in it and below.

    Raises:
        ConfigError: another form, or nothing there.
        IndexFormatError: the index cannot be read.
    """
    name, _, place = text.partition("=")
    folder = Path(place)
    if not (name and place and folder.is_dir()):
        return PictureSet(name, parse_named_index(text).index.rows)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise ConfigError(
            f"the folder {folder} holds no picture",
            expected="files in it or below it",
            came="none",
            do="check the path",
        )
    return PictureSet(name, tuple(Xray(path, "", str(path), "") for path in files))


def measure(
    sets: Sequence[PictureSet],
    scorer: Callable[[], Scorer],
    *,
    altered: bool = False,
    most: int = 0,
    workers: int = 2,
) -> list[Verdict]:
    """Let the scorer judge every picture; with `altered`, each also turned, inverted and cut.

    Args:
        sets: what to judge.
        scorer: opens one, for each thread its own.
        altered: also as `ALTERATIONS` make of it.
        most: pictures of each set, spread over it; 0 takes all.
        workers: threads.

    Raises:
        ConfigError: the scorer judges nothing.
    """
    _require_judge(scorer())
    local = threading.local()

    def judged(numbered: tuple[int, Xray]) -> list[tuple[str, str, bool]]:
        if not hasattr(local, "scorer"):
            local.scorer = scorer()
        return _judged(*numbered, local.scorer, altered=altered)

    verdicts: dict[str, Verdict] = {}
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for one in sets:
            rows = one.rows[:: max(1, -(-len(one.rows) // most))] if most else one.rows
            judgements = progress(pool.map(judged, enumerate(rows)), one.name, total=len(rows))
            for row, found in zip(rows, judgements, strict=True):
                for how, reason, outside in found:
                    name = f"{one.name}, {how}" if how else one.name
                    verdicts.setdefault(name, Verdict(name)).add(reason, outside=outside, label=row.label)
    return list(verdicts.values())


def _require_judge(scorer: Scorer) -> None:
    if scorer.judge is None:
        raise ConfigError(
            "this bundle judges no suitability",
            expected="suitability statistics in the bundle: train-qat adds them where lungs = true",
            came="none",
            do="train with the lung network and enough X-rays",
        )


def _judged(number: int, row: Xray, scorer: Scorer, *, altered: bool) -> list[tuple[str, str, bool]]:
    """(alteration, reason or "", outside the population) of one picture in each of its forms."""
    try:
        decoded = decode(row.path, min_side_px=scorer.preprocessing.decode_min_side_px, limits=scorer.limits)
    except ImageError:
        return [("", UNREADABLE, False)]
    pixels = stretch_back(decoded.pixels, row)
    forms = {"": pixels, **({name: alter(pixels, number) for name, alter in ALTERATIONS.items()} if altered else {})}
    found = []
    for how, form in forms.items():
        try:
            score = scorer.score_decoded(replace(decoded, pixels=np.ascontiguousarray(form)))
        except UnsuitableImage as error:
            found.append((how, error.reason, False))
        else:
            assert score.suitability is not None  # `measure` asked for a judge
            found.append((how, "", score.suitability["population"] == "outside"))
    return found


def _cut(pixels: Grey, number: int) -> Grey:
    """What is left when two fifths are lost at one side: left, right, top and bottom in turn."""
    height, width = pixels.shape
    rows, columns = round(height * _KEPT), round(width * _KEPT)
    return (pixels[:, -columns:], pixels[:, :columns], pixels[-rows:], pixels[:rows])[number % 4]


# As in `firmware_bridge.lungs.KINDS`: turned as np.rot90 turns.
ALTERATIONS: dict[str, Callable[[Grey, int], Grey]] = {
    "turned_left": lambda pixels, _: np.rot90(pixels, 1),
    "upside_down": lambda pixels, _: np.rot90(pixels, 2),
    "turned_right": lambda pixels, _: np.rot90(pixels, 3),
    "inverted": lambda pixels, _: np.asarray(255 - pixels, np.uint8),
    "cropped": _cut,
}


def of_bundle(bundle: Bundle) -> Callable[[], Scorer]:
    """Opens the scorer of a bundle's default model, as the agent has it, with one thread."""
    return lambda: bundle.scorer(threads=1)


def table(verdicts: Sequence[Verdict]) -> str:
    """The counts as Markdown."""
    head = "| set | pictures | scored | outside | refused | reasons | refused by label |"
    lines = [head, "|---|" + "---:|" * 4 + "---|---|"]
    for one in verdicts:
        refused = one.pictures - one.scored
        reasons = ", ".join(f"{reason} {n}" for reason, n in one.reasons.most_common())
        labels = ", ".join(f"{label} {r}/{n}" for label, (n, r) in sorted(one.by_label.items()) if label)
        share = f"{one.scored} ({one.scored / one.pictures:.1%})"
        lines.append(f"| {one.name} | {one.pictures} | {share} | {one.outside} | {refused} | {reasons} | {labels} |")
    return "\n".join(lines)
