"""`cxr-edge logs`: the service's log on devices."""

from __future__ import annotations

import click

from firmware_bridge.result import NOTICE
from toolkit.cli.hosts import Reach, for_hosts, leave, run_async


@click.command("logs", epilog=NOTICE)
@for_hosts
@click.option("--lines", type=click.IntRange(1, 100_000), default=50, show_default=True, help="The last so many.")
@click.option("--since", default="", help='As systemd.time(7) has it: "2026-11-24 08:00", "-1h", "yesterday".')
def command(*, reach: Reach, lines: int, since: str) -> None:
    """Print the service's log of devices. No names of patients or files stand in it."""
    from toolkit.deploy import show
    from toolkit.deploy.ask import ask_all
    from toolkit.deploy.fleet import worst_exit_code
    from toolkit.deploy.since import require_since

    require_since(since)
    hosts = reach.chosen()
    ended = run_async(ask_all(hosts, reach.access(), reach.password(), "logs", lines=lines, since=since))
    for one in ended:
        for line in one.value or []:
            click.echo(f"{one.host.name}: {line}" if len(hosts) > 1 else line)
    show.errors(ended)
    leave(worst_exit_code(ended))
