"""`cxr-edge ablate`: parse, train and test each variant, print the table."""

from __future__ import annotations

from pathlib import Path

import click

from firmware_bridge.result import NOTICE


@click.command("ablate", epilog=NOTICE)
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for runs and the table.")
@click.option("--resamples", type=click.IntRange(10), default=1000, show_default=True, help="Of the bootstrap.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the bootstrap.")
def command(plan: Path, out: Path, resamples: int, seed: int) -> None:
    """Train and test the variants that the TOML file PLAN names; one table of what each option does.

    Cut off, the same command goes on.
    """
    from toolkit.ablate import ablate, read_ablation, table
    from toolkit.summary import Options

    options = Options(resamples=resamples, seed=seed)
    said = ablate(read_ablation(plan), out=out, options=options, say=click.echo)
    click.echo(f"\n{table(said)}\n\n{NOTICE}")
