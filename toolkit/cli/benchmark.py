"""`cxr-edge benchmark`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from firmware_bridge.errors import ConfigError
from firmware_bridge.result import NOTICE
from toolkit.cli.bundle_file import BUNDLE_FILE, BUNDLE_HELP
from toolkit.cli.hosts import Reach, for_hosts, leave, run_async


@click.command("benchmark", epilog=NOTICE)
@click.option(
    "--model",
    "models",
    multiple=True,
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
@click.option("--agent", is_flag=True, help="Measure the whole agent beside a bare loop of the same work.")
@click.option(
    "--bundle",
    type=BUNDLE_FILE,
    help=f"With --agent: what scores. {BUNDLE_HELP}.",
)
@click.option("--count", default=300, show_default=True, type=click.IntRange(2), help="With --agent: so many files.")
@click.option(
    "--idle",
    "idle_s",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0.1, 3600),
    help="With --agent: seconds that the agent is watched while nothing comes.",
)
@for_hosts
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here.")
def command(
    models: tuple[Path, ...],
    images: Path,
    threads: str,
    rounds: int,
    limit: int,
    naive: bool,
    agent: bool,
    bundle: Path | None,
    count: int,
    idle_s: float,
    reach: Reach,
    json_path: Path | None,
) -> None:
    """Time decode, preprocessing, inference and explanation of each file, in turns with the naive way.

    With --host it runs on devices: files go there, the table comes home, nothing stays.
    """
    if agent:
        if reach.given:
            raise ConfigError(
                "--agent measures on this machine, not on devices",
                expected="--agent, or --host, --inventory or --group",
                came="both",
                do="leave them out (CXR_EDGE_INVENTORY counts as well), or call it on the device: it has cxr-edge",
            )
        _whole_agent(bundle, images, count, rounds, idle_s, json_path)
        return
    if not models:
        raise _missing("--model", "a .tflite file, or --agent with --bundle")
    _require_tflite(models)
    if reach.given:
        arguments = ["--threads", threads, "--rounds", str(rounds), "--limit", str(limit), "--no-naive"]
        _numbers(threads)
        _on_devices(reach, models, images, arguments, limit, json_path)
        return
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
    )
    benchmark = run_benchmark(plan)
    if json_path is not None:
        write_atomically(json_path, json.dumps(benchmark.to_json(), indent=2) + "\n")
    click.echo(render(benchmark))
    click.echo(NOTICE)


def _whole_agent(
    bundle: Path | None, images: Path, count: int, rounds: int, idle_s: float, json_path: Path | None
) -> None:
    if bundle is None:
        raise _missing("--bundle", "the bundle that the agent scores with")
    from toolkit.benchmark.agent import AgentPlan, measure_agent
    from toolkit.files import write_atomically

    figures = measure_agent(AgentPlan(bundle, images, count=count, rounds=rounds, idle_s=idle_s))
    if json_path is not None:
        write_atomically(json_path, json.dumps(figures.to_json(), indent=2) + "\n")
    click.echo(figures.render())
    click.echo(NOTICE)


def _missing(option: str, expected: str) -> ConfigError:
    return ConfigError(f"{option} is missing", expected=expected, came="nothing", do=f"add {option}")


def _require_tflite(models: tuple[Path, ...]) -> None:
    """Before a connection and hundreds of MB: a bundle is taken for its model."""
    other = next((model for model in models if model.suffix != ".tflite"), None)
    if other is not None:
        raise ConfigError(
            f"{other} is no model file",
            expected="a .tflite file",
            came=other.name,
            do="give one out of a run's folder (RUN/model.int8.tflite), or out of a bundle: unzip BUNDLE 'models/*'",
        )


def _on_devices(
    reach: Reach, models: tuple[Path, ...], images: Path, arguments: list[str], limit: int, json_path: Path | None
) -> None:
    hosts, password, access = reach.chosen(), reach.password(), reach.access()
    from toolkit.deploy import show
    from toolkit.deploy.benchmark import benchmark_hosts
    from toolkit.deploy.fleet import worst_exit_code
    from toolkit.files import write_atomically

    with show.reporter([host.name for host in hosts], sys.stderr, quiet=False) as news:
        work = benchmark_hosts(
            hosts, access, password, news, models=models, images=images, arguments=arguments, limit=limit
        )
        ended = run_async(work)
    reports = {one.host.name: one.value["report"] for one in ended if one.value is not None}
    if json_path is not None:
        write_atomically(json_path, json.dumps({"schema": 1, "notice": NOTICE, "hosts": reports}, indent=2) + "\n")
    for one in ended:
        if one.value is not None:
            click.echo(f"{one.host.name}:\n{one.value['table']}")
    show.errors(ended)
    leave(worst_exit_code(ended))


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
