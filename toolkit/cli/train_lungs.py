"""`cxr-edge train-lungs`: parse, train, say where the file is."""

from __future__ import annotations

from pathlib import Path

import click

from firmware_bridge.result import NOTICE


@click.command("train-lungs", epilog=NOTICE)
@click.argument("index_file", metavar="INDEX", type=click.Path(path_type=Path))
@click.option("--masks", type=click.Path(path_type=Path), required=True, help="Folder of masks: X-ray's name, .png.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/lungs"), show_default=True, help="Folder of the run."
)
@click.option("--epochs", type=click.IntRange(1, 1000), default=12, show_default=True, help="Passes over the X-rays.")
@click.option("--batch-size", type=click.IntRange(2, 1024), default=32, show_default=True, help="Pictures a step.")
@click.option("--rate", type=click.FloatRange(1e-6, 1.0), default=3e-3, show_default=True, help="Learning rate.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Decides all chance.")
@click.option("--workers", type=click.IntRange(1, 256), default=2, show_default=True, help="Threads that augment.")
def command(
    index_file: Path, masks: Path, out: Path, epochs: int, batch_size: int, rate: float, seed: int, workers: int
) -> None:
    """Train the lung network on the X-rays of INDEX that have a mask; write lungs.int8.tflite and its figures.

    INDEX has splits (cxr-edge data split). Cut off, the same command goes on.
    """
    from toolkit.data.index import Index
    from toolkit.lungs.train import LungOptions, train_lungs

    options = LungOptions(epochs=epochs, batch_size=batch_size, rate=rate, seed=seed, workers=workers)
    file = train_lungs(Index.read(index_file), masks=masks, out=out, options=options, say=click.echo)
    click.echo(f"lungs: {file}\n{NOTICE}")
