"""`cxr-edge uninstall`: everything off devices, but for results."""

from __future__ import annotations

import sys

import click

from firmware_bridge.errors import ConfigError
from firmware_bridge.result import NOTICE
from toolkit.cli.hosts import Reach, for_hosts, leave, run_async


@click.command("uninstall", epilog=NOTICE)
@for_hosts
@click.option("--remove-results", is_flag=True, help="The agent's journal and the device key go too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(*, reach: Reach, remove_results: bool, yes: bool) -> None:
    """Stop the agent on devices and remove it.

    Its journal, the log of all outcomes and the device key stay in /var/lib/cxr-edge, unless --remove-results is given.
    The watched folder stays in any case, with its X-rays and the results beside them (.cxr.json).
    """
    from toolkit.deploy import show
    from toolkit.deploy.ask import ask_all
    from toolkit.deploy.fleet import worst_exit_code

    hosts = reach.chosen()
    if not yes:
        what = "cxr-edge, its journal and the device key" if remove_results else "cxr-edge"
        if not sys.stdin.isatty():
            raise ConfigError(
                f"removing {what} needs a word",
                expected="--yes, or a terminal to ask on",
                came="neither",
                do="give --yes",
            )
        click.confirm(f"Remove {what} from {', '.join(host.name for host in hosts)}?", abort=True, err=True)
    ended = run_async(ask_all(hosts, reach.access(), reach.password(), "uninstall", lock=True, results=remove_results))
    for one in ended:
        if one.value is not None:
            click.echo(f"{one.host.name}: removed {', '.join(one.value) or 'nothing: there was nothing'}")
            journal = "" if remove_results else "/var/lib/cxr-edge (journal, device key) and "
            click.echo(
                f"{one.host.name}: left {journal}the watched folder (X-rays and .cxr.json beside them), "
                "and the system users cxr-edge and cxr-edge-proof"
            )
    click.echo(NOTICE)
    show.errors(ended)
    leave(worst_exit_code(ended))
