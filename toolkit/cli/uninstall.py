"""`cxr-edge uninstall`: everything off devices, but for results."""

from __future__ import annotations

import click

from firmware_bridge.result import NOTICE
from toolkit.cli.hosts import Reach, for_hosts, leave, run_async


@click.command("uninstall", epilog=NOTICE)
@for_hosts
@click.option("--remove-results", is_flag=True, help="The journal with all results and the device key go too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(*, reach: Reach, remove_results: bool, yes: bool) -> None:
    """Stop the agent on devices and remove it.

    Journal, results and the watched folder stay; X-rays and the JSON beside them are never removed.
    """
    from toolkit.deploy import show
    from toolkit.deploy.ask import ask_all
    from toolkit.deploy.fleet import worst_exit_code

    hosts = reach.chosen()
    if not yes:
        what = "cxr-edge and all results" if remove_results else "cxr-edge"
        click.confirm(f"Remove {what} from {', '.join(host.name for host in hosts)}?", abort=True, err=True)
    ended = run_async(ask_all(hosts, reach.access(), reach.password(), "uninstall", lock=True, results=remove_results))
    for one in ended:
        if one.value is not None:
            click.echo(f"{one.host.name}: removed {', '.join(one.value) or 'nothing: there was nothing'}")
    click.echo(NOTICE)
    show.errors(ended)
    leave(worst_exit_code(ended))
