"""`cxr-edge status`: what runs on devices."""

from __future__ import annotations

import json

import click

from firmware_bridge.result import NOTICE
from toolkit.cli.hosts import Reach, for_hosts, leave, run_async


@click.command("status", epilog=NOTICE)
@for_hosts
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, reach: Reach, as_json: bool) -> None:
    """Show what runs on devices, how it is, and what they could go back to. Exit code 1 where one is not well."""
    from toolkit.deploy import show
    from toolkit.deploy.ask import ask_all
    from toolkit.deploy.fleet import worst_exit_code

    ended = run_async(ask_all(reach.chosen(), reach.access(), reach.password(), "status"))
    if as_json:
        click.echo(
            json.dumps({"schema": 1, "notice": NOTICE, "hosts": [show.status_json(one) for one in ended]}, indent=1)
        )
    else:
        for one in ended:
            if one.value is not None:
                click.echo("\n".join(show.status_lines(one.host.name, one.value)))
        click.echo(NOTICE)
    show.errors(ended)
    leave(worst_exit_code(ended) or int(any(not show.is_well(one.value) for one in ended)))
