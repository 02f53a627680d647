"""`cxr-edge distill`: `train-qat` with a teacher."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from firmware_bridge.result import NOTICE
from toolkit.cli.field_options import field_options
from toolkit.config import read_config


@click.command("distill", epilog=NOTICE)
@click.argument("source", metavar="INDEX|FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="A training run, a bundle (or cxr-edge/NAME) or a .tflite file; of several the mean teaches. Repeatable.",
)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file; options and environment override it.")
@click.option("--out", type=click.Path(path_type=Path), default="runs", show_default=True, help="Folder of runs.")
@field_options(leave_out=("teacher",))
def command(source: Path, teachers: tuple[Path, ...], config: Path | None, out: Path, **fields: Any) -> None:
    """Train a small model that learns from a saved teacher as well as from the labels; then as train-qat.

    Cut off, the same command goes on.
    """
    from toolkit.train_qat import train_qat

    overrides = {name: value for name, value in fields.items() if value is not None}
    overrides["teacher"] = os.pathsep.join(map(str, teachers))
    finished = train_qat(source, read_config(config, overrides), out=out, say=click.echo)
    click.echo(f"bundle: {finished.bundle}\nreport: {finished.report}\n{NOTICE}")
