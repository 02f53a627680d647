"""`cxr-edge explain`: parse, explain, say where the page is."""

from __future__ import annotations

from pathlib import Path

import click

from firmware_bridge.result import NOTICE
from toolkit.cli.bundle_file import BUNDLE_FILE, BUNDLE_HELP


@click.command("explain", epilog=NOTICE)
@click.option("--run", "runs", type=click.Path(path_type=Path), multiple=True, help="A training run; repeatable.")
@click.option("--bundle", "bundles", type=BUNDLE_FILE, multiple=True, help=f"{BUNDLE_HELP}; repeatable.")
@click.option("--index", required=True, metavar="NAME=PATH[:SPLIT]", help="Labelled X-rays.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for overlays, JSON and HTML.")
@click.option("--each", type=click.IntRange(1, 20), default=3, show_default=True, help="X-rays in each group.")
@click.option("--limit", type=click.IntRange(4), default=200, show_default=True, help="At most so many X-rays scored.")
@click.option(
    "--sanity/--no-sanity",
    default=True,
    show_default=True,
    help="Shuffle the weights of the first --run or cxr-edge/NAME.",
)
def command(
    runs: tuple[Path, ...],
    bundles: tuple[Path, ...],
    index: str,
    out: Path,
    each: int,
    limit: int,
    sanity: bool,
) -> None:
    """Show where scores come from: Grad-CAM and Grad-CAM++ of the int8, FP16 and float files, right and wrong."""
    from toolkit.evaluate import parse_named_index
    from toolkit.explanations import HTML_NAME, explain, sanity_rows
    from toolkit.model_files import from_bundle, from_run
    from toolkit.report_explanations import headline
    from toolkit.under_test import labels_of, with_unique_names

    tested = [model for run in runs for model in from_run(run)] + [m for bundle in bundles for m in from_bundle(bundle)]
    models = with_unique_names([model for model in tested if model.precision in ("int8", "fp16", "float")])
    named = parse_named_index(index)
    labels = labels_of(models)
    randomized = sanity_rows((*runs, *bundles)[0], named, models[0], labels=labels) if sanity else ()
    said = explain(models, named, out=out, labels=labels, each=each, limit=limit, randomized=randomized)
    click.echo(f"{headline(said)}\npage: {out / HTML_NAME}\n{NOTICE}")
