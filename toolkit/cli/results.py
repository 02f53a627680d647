"""`cxr-edge results`: export."""

from __future__ import annotations

import os
from pathlib import Path

import click

from firmware_bridge.result import NOTICE
from firmware_bridge.results_export import DECISIONS, Choice, export_lines, moment
from toolkit.cli.state_folder import state_folder, state_options


@click.group("results", epilog=NOTICE)
def command() -> None:
    """What an agent found, from its journal."""


@command.command("export", epilog=NOTICE)
@state_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl", "fhir"]),
    default="csv",
    show_default=True,
    help="Of what is written.",
)
@click.option("--since", default="", help="No results before: 2026-11-24, 2026-11-24T10:30 (local), ...Z, ...+01:00.")
@click.option("--until", default="", help="No results at or after.")
@click.option(
    "--decision", "decisions", type=click.Choice(DECISIONS), multiple=True, help="Only these; may be repeated."
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File; whole or not there. Default: stdout."
)
def export(
    *,
    state: Path | None,
    watch: Path | None,
    config: Path | None,
    form: str,
    since: str,
    until: str,
    decisions: tuple[str, ...],
    out: Path | None,
) -> None:
    """Write the results as CSV, JSON lines or FHIR, oldest first. The agent may be running."""
    choice = Choice(since and moment(since), until and moment(until), decisions)
    lines = export_lines(state_folder(state, watch, config), form=form, choice=choice)
    if out is None:
        for line in lines:
            click.echo(line, nl=False)
        return
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
