"""`cxr-edge benchmark`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from firmware_bridge.errors import ConfigError
from firmware_bridge.result import NOTICE


@click.command("benchmark", epilog=NOTICE)
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A .tflite file. May be given more than once.",
)
@click.option(
    "--images",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with X-rays to measure on.",
)
@click.option("--threads", default="1,2", show_default=True, help="Numbers of threads, separated by commas.")
@click.option("--rounds", default=7, show_default=True, help="Turns of each contender.")
@click.option("--limit", default=12, show_default=True, help="At most so many X-rays, spread over the folder.")
@click.option("--naive/--no-naive", default=True, show_default=True, help="The naive way beside the files.")
@click.option("--peers", is_flag=True, help="ONNX Runtime and OpenVINO beside the files (needs [train,bench]).")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here.")
def command(
    models: tuple[Path, ...],
    images: Path,
    threads: str,
    rounds: int,
    limit: int,
    naive: bool,
    peers: bool,
    json_path: Path | None,
) -> None:
    """Time decode, preprocessing, inference and explanation of each file, in turns with the naive way."""
    from toolkit.benchmark.measure import Plan, run_benchmark
    from toolkit.benchmark.table import render
    from toolkit.files import write_atomically

    plan = Plan(
        models=models,
        images=images,
        threads=_numbers(threads),
        rounds=rounds,
        limit=limit,
        naive=naive,
        peers=peers,
    )
    benchmark = run_benchmark(plan)
    if json_path is not None:
        write_atomically(json_path, json.dumps(benchmark.to_json(), indent=2) + "\n")
    click.echo(render(benchmark))
    click.echo(NOTICE)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            "--threads cannot be read",
            expected="whole numbers separated by commas, such as 1,2",
            came=text,
            do="write for example --threads 1,2",
        ) from error
