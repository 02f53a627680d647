"""`cxr-edge train`: the floating-point phase alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from firmware_bridge.result import NOTICE
from toolkit.cli.field_options import field_options
from toolkit.config import read_config


@click.command("train", epilog=NOTICE)
@click.argument("source", metavar="INDEX|FOLDER", type=click.Path(path_type=Path))
@click.option("--config", type=click.Path(path_type=Path), help="TOML file; options and environment override it.")
@click.option("--out", type=click.Path(path_type=Path), default="runs", show_default=True, help="Folder of runs.")
@field_options()
def command(source: Path, config: Path | None, out: Path, **fields: Any) -> None:
    """Train in floating point alone: teachers, and variants that no device runs in int8.

    Takes the options of train-qat; those of pruning and quantization are not used. Cut off, the same command goes on.
    """
    from toolkit.train_float import train_float

    overrides = {name: value for name, value in fields.items() if value is not None}
    folder = train_float(source, read_config(config, overrides), out=out, say=click.echo)
    click.echo(f"run: {folder}\nreport: {folder / 'report.html'}\n{NOTICE}")
