"""`cxr-edge train-qat`: every field of the configuration is an option; parse, train, say where the results are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from firmware_bridge.result import NOTICE
from toolkit.cli.field_options import field_options
from toolkit.config import read_config


@click.command("train-qat", epilog=NOTICE)
@click.argument("source", metavar="INDEX|FOLDER", type=click.Path(path_type=Path))
@click.option("--config", type=click.Path(path_type=Path), help="TOML file; options and environment override it.")
@click.option("--out", type=click.Path(path_type=Path), default="runs", show_default=True, help="Folder of runs.")
@field_options()
def command(source: Path, config: Path | None, out: Path, **fields: Any) -> None:
    """Train, prune, quantization-aware train, export int8 and FP16, calibrate, bundle, report.

    Takes an index (cxr-edge data index) or a folder of class folders. Cut off, the same command goes on.
    """
    from toolkit.train_qat import train_qat

    overrides = {name: value for name, value in fields.items() if value is not None}
    finished = train_qat(source, read_config(config, overrides), out=out, say=click.echo)
    click.echo(f"bundle: {finished.bundle}\nreport: {finished.report}\n{NOTICE}")
