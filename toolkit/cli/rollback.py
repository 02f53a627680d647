"""`cxr-edge rollback`: the release before."""

from __future__ import annotations

import sys

import click

from firmware_bridge.result import NOTICE
from toolkit.cli.hosts import Reach, for_hosts, leave, run_async


@click.command("rollback", epilog=NOTICE)
@for_hosts
@click.option("--to", default="", help="First digits of a release's id (`cxr-edge status`). Default: the one before.")
@click.option(
    "--watch",
    "watch_s",
    type=click.FloatRange(1, 3600),
    default=5.0,
    show_default=True,
    help="Seconds that it must stay up before it counts.",
)
@click.option("--keep", type=click.IntRange(2, 100), default=3, show_default=True, help="Releases kept on a device.")
def command(*, reach: Reach, to: str, watch_s: float, keep: int) -> None:
    """Let devices go back to the release that ran before.

    It is proven and watched like a new one; where it fails, what runs now stays.
    """
    from toolkit.deploy import show
    from toolkit.deploy.ask import roll_back
    from toolkit.deploy.fleet import worst_exit_code

    hosts = reach.chosen()
    password, access = reach.password(), reach.access()
    with show.reporter([host.name for host in hosts], sys.stderr, quiet=False) as news:
        ended = run_async(
            roll_back(hosts, access, password, news, to=to or None, watch_s=watch_s, keep=keep),
        )
    for one in ended:
        if one.value is not None:
            click.echo(f"{one.host.name}: release {one.value['id']} runs again")
    click.echo(NOTICE)
    show.errors(ended)
    leave(worst_exit_code(ended))
