"""`cxr-edge evaluate`: the deployed files themselves on labelled X-rays, inside and outside, with honest intervals."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from firmware_bridge.errors import ConfigError
from firmware_bridge.result import NOTICE, utc_now
from toolkit.data.index import SPLITS, Index
from toolkit.differences import gaps, paired_differences
from toolkit.extras import require_modules
from toolkit.files import write_atomically
from toolkit.progress import progress
from toolkit.report_evaluation import evaluation_sections
from toolkit.report_page import render
from toolkit.score_index import NamedIndex, score_index, scores_csv
from toolkit.summary import EVALUATION_KIND, INSIDE, Json, Options, ScoredSet, summarise_set
from toolkit.summary_text import headline
from toolkit.under_test import ModelUnderTest, baseline_of, labels_of, with_unique_names

SCHEMA = 1
JSON_NAME = "evaluation.json"
HTML_NAME = "evaluation.html"
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}")


def evaluate(
    models: Sequence[ModelUnderTest],
    indexes: Sequence[NamedIndex],
    *,
    out: Path,
    labels: tuple[str, str] | None = None,
    options: Options | None = None,
    workers: int = 2,
) -> Json:
    """Score every index with every model and write scores, figures and the report into `out`.

    Each set's scores are on disk as soon as they are there. Writes `scores/SET.MODEL.csv`, `evaluation.json` and
    `evaluation.html`.

    Args:
        models: the first is the one that the headline is about.
        indexes: names that begin with "inside" are the training source, all others are outside.
        out: folder, made where missing.
        labels: (negative, positive); None takes what the models say, else normal and pneumonia.
        options: prevalence, resamples, seed.
        workers: threads that score.

    Returns:
        What `evaluation.json` holds.

    Raises:
        ConfigError: no model, no index, or a name twice.
        InputError: an index holds nothing that can be scored.
        ModelError: a file cannot be loaded.
        MissingExtraError: what draws the report is not installed.
        ResourceError: `out` cannot be written.
    """
    require_modules("matplotlib", "jinja2", extra="train")
    options = options or Options()
    models = with_unique_names(models)
    _check_names(indexes)
    labels = labels or labels_of(models)
    described = [model.to_json() for model in models]  # before the hours of scoring: it opens each file
    sets = [_scored(named, models, labels=labels, out=out, workers=workers) for named in indexes]
    evaluation = {**_head(labels, options), "models": described, **_figures(models, sets, options)}
    write_atomically(out / JSON_NAME, json.dumps(evaluation, indent=1, allow_nan=False, ensure_ascii=True) + "\n")
    write_atomically(out / HTML_NAME, render("Evaluation", headline(evaluation), evaluation_sections(evaluation)))
    return evaluation


def _head(labels: tuple[str, str], options: Options) -> Json:
    return {
        "schema": SCHEMA,
        "kind": EVALUATION_KIND,
        "notice": NOTICE,
        "created": utc_now(),
        "labels": {"negative": labels[0], "positive": labels[1]},
        "prevalence": options.prevalence,
        "resamples": options.resamples,
        "seed": options.seed,
        "confidence": 0.95,
    }


def _figures(models: Sequence[ModelUnderTest], sets: Sequence[ScoredSet], options: Options) -> Json:
    thresholds = {model.name: model.threshold for model in models}
    summaries = [
        summarise_set(scored, thresholds, options) for scored in progress(sets, "resampling patients for intervals")
    ]
    baseline = baseline_of(models)
    return {
        "sets": summaries,
        "gaps": gaps(summaries, [model.name for model in models]),
        "paired": paired_differences(sets, baseline=baseline, options=options) if baseline else [],
    }


def _scored(
    named: NamedIndex, models: Sequence[ModelUnderTest], *, labels: tuple[str, str], out: Path, workers: int
) -> ScoredSet:
    """The X-rays of one index scored by every model; their scores are on disk then."""
    scored = score_index(named, models, labels=labels, workers=workers)
    for model in models:
        write_atomically(out / "scores" / f"{scored.name}.{model.name}.csv", scores_csv(scored, model.name))
    return scored


def parse_named_index(text: str) -> NamedIndex:
    """`NAME=PATH` or `NAME=PATH:SPLIT` as the command line has it, read.

    Raises:
        ConfigError: it has another form, or the split is unknown or empty.
        IndexFormatError: the index cannot be read.
    """
    name, equals, place = text.partition("=")
    if not equals or not place or not _SET_NAME.fullmatch(name):
        raise ConfigError(
            f"--index {text} is not understood",
            expected="NAME=PATH or NAME=PATH:SPLIT, the name of letters, digits, '.', '_' and '-'",
            came=text,
            do="write for example --index inside=index.csv:test --index outside=nih.csv",
        )
    path, _, split = place.rpartition(":")
    if split not in SPLITS and Path(path).is_file() and not Path(place).exists():
        raise ConfigError(
            f"'{split}' in --index {text} is no split",
            expected=", ".join(SPLITS),
            came=split or "nothing after the colon",
            do="name one of them, or leave the colon out to take all rows",
        )
    if split not in SPLITS or not path:
        path, split = place, ""
    index = Index.read(Path(path))
    if split:
        index = index.select(split=split)
        if not len(index):
            raise ConfigError(
                f"'{path}' has no rows of the split '{split}'",
                expected=f"rows with split = {split}",
                came=f"the splits {', '.join(sorted({row.split or '(none)' for row in Index.read(Path(path))}))}",
                do="leave :SPLIT out to take all rows, or name another split",
            )
    return NamedIndex(name, Path(path), split, index)


def _check_names(indexes: Sequence[NamedIndex]) -> None:
    names = [named.name for named in indexes]
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            "the sets to score cannot be told apart" if names else "there is nothing to score",
            expected=f"one or more sets of different names, '{INSIDE}...' for the training source",
            came=", ".join(names) or "none",
            do="write for example --index inside=index.csv:test --index outside=nih.csv",
        )
