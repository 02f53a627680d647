"""`cxr-edge doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from firmware_bridge.result import NOTICE

_COLOUR = {"ok": "green", "note": "yellow", "problem": "red"}


@click.command("doctor", epilog=NOTICE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="Folder to work in; the space on its disk counts.  [default: the current one]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A .tflite file to try as well. May be given more than once.",
)
@click.pass_context
def command(ctx: click.Context, as_json: bool, folder: Path, models: tuple[Path, ...]) -> None:
    """Look for what would go wrong here, and how to mend it. Exit code 1 if there is a problem."""
    from toolkit.doctor import examine, healthy, read_facts

    findings = examine(read_facts(folder.resolve(), models=models))
    if as_json:
        report = {"schema": 1, "notice": NOTICE, "healthy": healthy(findings)}
        click.echo(json.dumps({**report, "findings": [finding.to_json() for finding in findings]}, indent=2))
    else:
        for finding in findings:
            click.secho(f"{finding.status.value:8}", fg=_COLOUR[finding.status.value], nl=False)
            click.echo(f"{finding.check}: {finding.message}")
            if finding.mend:
                click.echo(f"{'':8}  do: {finding.mend}")
        click.echo(NOTICE)
    ctx.exit(0 if healthy(findings) else 1)
