"""`cxr-edge agent status`: how an agent is, running or stopped."""

from __future__ import annotations

import json
from pathlib import Path

import click

from firmware_bridge.result import NOTICE
from firmware_bridge.settings import Settings
from toolkit.cli.state_folder import folder_of, state_folder, state_options

EXIT_NOT_WORKING = 1
EXIT_STOPPED = 3  # as `systemctl status` counts


@click.command("status", epilog=NOTICE)
@state_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option("--last", type=click.IntRange(0, 1000), default=5, show_default=True, help="Latest results to show.")
@click.pass_context
def command(
    ctx: click.Context, *, state: Path | None, watch: Path | None, config: Path | None, as_json: bool, last: int
) -> None:
    """Show queue, last results, broker, bundle, disk and problems. Nothing is changed.

    Exit code: 0 it runs and works, 1 it runs but cannot score or keep results, 3 it does not run.
    """
    from firmware_bridge.status_report import as_text, report

    given = ctx.obj if isinstance(ctx.obj, Settings) and not (state or watch or config) else None
    folder = folder_of(given) if given else state_folder(state, watch, config)
    found = report(folder, last=last)
    click.echo(json.dumps(found, ensure_ascii=False) if as_json else as_text(found))
    if not found["running"]:
        ctx.exit(EXIT_STOPPED)
    if not found["works"]:
        ctx.exit(EXIT_NOT_WORKING)
