"""`cxr-edge suitability`: parse, measure, print the table."""

from __future__ import annotations

from pathlib import Path

import click

from firmware_bridge.result import NOTICE
from toolkit.cli.bundle_file import BUNDLE_FILE, BUNDLE_HELP


@click.command("suitability", epilog=NOTICE)
@click.argument("sets", metavar="NAME=PATH...", nargs=-1, required=True)
@click.option("--bundle", "bundle_file", type=BUNDLE_FILE, required=True, help=f"{BUNDLE_HELP}.")
@click.option("--altered", is_flag=True, help="Judge every picture also turned, inverted and cut off.")
@click.option("--most", type=click.IntRange(0), default=0, help="Pictures of each set, spread over it; 0: all.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the counts here, too.")
@click.option("--workers", type=click.IntRange(1, 256), default=2, show_default=True, help="Threads that judge.")
def command(
    sets: tuple[str, ...], bundle_file: Path, altered: bool, most: int, json_file: Path | None, workers: int
) -> None:
    """Count what a bundle accepts and refuses, and why.

    PATH is an index (INDEX.csv or INDEX.csv:SPLIT) or a folder of any pictures. Judged as the agent judges.
    """
    import json

    from firmware_bridge.bundle import open_bundle
    from toolkit.files import write_atomically
    from toolkit.suitability_measure import measure, of_bundle, read_set, table

    wanted = [read_set(text) for text in sets]
    with open_bundle(bundle_file) as bundle:
        verdicts = measure(wanted, of_bundle(bundle), altered=altered, most=most, workers=workers)
    if json_file:
        write_atomically(json_file, json.dumps([one.to_json() for one in verdicts], indent=1) + "\n")
    click.echo(table(verdicts))
    click.echo(NOTICE)
