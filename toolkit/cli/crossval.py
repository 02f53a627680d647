"""`cxr-edge crossval`: parse, train and test, print the matrix."""

from __future__ import annotations

from pathlib import Path

import click

from firmware_bridge.result import NOTICE


@click.command("crossval", epilog=NOTICE)
@click.option(
    "--set", "sets", multiple=True, required=True, metavar="NAME=INDEX.csv", help="A labelled data set. Repeatable."
)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file as for train-qat.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for runs and the matrix.")
@click.option(
    "--rows",
    "kinds",
    multiple=True,
    type=click.Choice(["single", "leave-one-out", "all"]),
    default=["single"],
    show_default=True,
    help="What is trained on: each set, all but one, all. Repeatable.",
)
@click.option("--everything", is_flag=True, help="Test unseen sets with all their X-rays, not their test split.")
@click.option("--resamples", type=click.IntRange(10), default=1000, show_default=True, help="Of the bootstrap.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the bootstrap.")
def command(
    sets: tuple[str, ...],
    config: Path | None,
    out: Path,
    kinds: tuple[str, ...],
    everything: bool,
    resamples: int,
    seed: int,
) -> None:
    """Train on each data set and test on all; the deployed int8 files, with patient-bootstrap intervals.

    Cut off, the same command goes on.
    """
    from toolkit.config import read_config
    from toolkit.crossval import Plan, crossval, headline, matrix
    from toolkit.evaluate import parse_named_index
    from toolkit.summary import Options

    named = [parse_named_index(text) for text in sets]
    plan = Plan({one.name: one.index for one in named}, kinds=kinds, everything=everything)
    options = Options(resamples=resamples, seed=seed)
    said = crossval(plan, read_config(config, {}), out=out, options=options, say=click.echo)
    click.echo(f"\n{matrix(said)}\n\n{headline(said)}\n{NOTICE}")
