"""`cxr-edge evaluate`: parse, evaluate, print the table."""

from __future__ import annotations

from pathlib import Path

import click

from firmware_bridge.result import NOTICE
from toolkit.cli.bundle_file import BUNDLE_FILE, BUNDLE_HELP
from toolkit.cli.finite import Finite


@click.command("evaluate", epilog=NOTICE)
@click.option("--model", "models", type=click.Path(path_type=Path), multiple=True, help="A .tflite file; repeatable.")
@click.option("--bundle", "bundles", type=BUNDLE_FILE, multiple=True, help=f"{BUNDLE_HELP}; repeatable.")
@click.option("--run", "runs", type=click.Path(path_type=Path), multiple=True, help="A training run; repeatable.")
@click.option(
    "--index",
    "indexes",
    multiple=True,
    required=True,
    metavar="NAME=PATH[:SPLIT]",
    help="Labelled X-rays; a NAME that begins with 'inside' is the training source, any other is outside. Repeatable.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for scores, JSON and HTML.")
@click.option("--positive", help="Label that counts as positive. Default: the model's own, else pneumonia.")
@click.option("--negative", help="Label that counts as negative; others are left out. Default: the model's own.")
@click.option("--threshold", type=Finite(0, 1), help="For models that bring none of their own.")
@click.option("--prevalence", type=Finite(0, 1), default=0.1, show_default=True, help="For PPV and NPV.")
@click.option("--resamples", type=click.IntRange(10), default=1000, show_default=True, help="Of the bootstrap.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the bootstrap.")
@click.option("--workers", type=click.IntRange(1, 256), default=2, show_default=True, help="Threads that score.")
def command(
    models: tuple[Path, ...],
    bundles: tuple[Path, ...],
    runs: tuple[Path, ...],
    indexes: tuple[str, ...],
    out: Path,
    positive: str | None,
    negative: str | None,
    threshold: float | None,
    prevalence: float,
    resamples: int,
    seed: int,
    workers: int,
) -> None:
    """Score .tflite files on labelled X-rays, inside and outside. Not for diagnosis."""
    from toolkit.evaluate import HTML_NAME, evaluate, parse_named_index
    from toolkit.model_files import from_bundle, from_file, from_run
    from toolkit.summary import Options
    from toolkit.summary_text import markdown
    from toolkit.under_test import labels_of, with_threshold

    tested = [model for bundle in bundles for model in from_bundle(bundle)]
    tested += [model for run in runs for model in from_run(run)]
    tested += [from_file(model) for model in models]
    evaluation = evaluate(
        with_threshold(tested, threshold),
        [parse_named_index(text) for text in indexes],
        out=out,
        labels=labels_of(tested, negative=negative, positive=positive),
        options=Options(prevalence=prevalence, resamples=resamples, seed=seed),
        workers=workers,
    )
    click.echo(markdown(evaluation))
    click.echo(f"Report: {out / HTML_NAME}")
