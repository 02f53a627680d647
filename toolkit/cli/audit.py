"""`cxr-edge audit`: verify."""

from __future__ import annotations

from pathlib import Path

import click

from firmware_bridge.result import NOTICE
from toolkit.cli.state_folder import state_folder, state_options


@click.group("audit", epilog=NOTICE)
def command() -> None:
    """The log of all outcomes, in which no line can be changed unseen."""


@command.command("verify", epilog=NOTICE)
@state_options
@click.option("--head", default="", help="A hash that the device published: the log must have a line with it.")
def verify(*, state: Path | None, watch: Path | None, config: Path | None, head: str) -> None:
    """Read the whole log.

    Every line must be in its place and unchanged, and every result of the journal must have one. Exit code 11 and the
    places, if not. The agent may be running.
    """
    from firmware_bridge.audit_verify import verify as verify_log
    from firmware_bridge.errors import AuditLogError

    folder = state_folder(state, watch, config)
    verdict = verify_log(folder, head=head.strip().lower())
    for note in verdict.notes:
        click.echo(f"note: {note}")
    for fault in verdict.faults:
        click.echo(f"fault: {fault}")
    waiting = f", {verdict.waiting} more wait for theirs" if verdict.waiting else ""
    golden = f", {verdict.golden} golden X-rays of deployments" if verdict.golden else ""
    click.echo(f"{verdict.lines} lines, {verdict.results} results{golden}{waiting}. Head: {verdict.head}")
    if verdict.faults:
        raise AuditLogError(
            f"the audit log in {folder} is not the one that was written",
            expected="every line in its place and unchanged",
            came=f"{verdict.faults[0]}" + (f" (and {len(verdict.faults) - 1} more)" if len(verdict.faults) > 1 else ""),
            do="keep the folder as it is; compare with a backup, and with the heads that the device published",
        )
    click.echo(f"The log is whole. {NOTICE}")
