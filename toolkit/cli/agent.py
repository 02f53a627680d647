"""`cxr-edge agent`: score every X-ray that arrives in a folder; report it once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from firmware_bridge.agent_settings import AgentSettings
from firmware_bridge.intake_settings import IntakeSettings
from firmware_bridge.logs import LogSettings, set_up
from firmware_bridge.mqtt_settings import MqttSettings
from firmware_bridge.requests_settings import RequestsSettings
from firmware_bridge.result import NOTICE
from firmware_bridge.settings import load_settings, variable_of
from toolkit.cli.finite import Finite
from toolkit.cli.lazy import LazyGroup

COMMANDS = {"status": ("toolkit.cli.agent_status", "Queue, last results, broker, bundle, disk, problems.")}
Command = Callable[..., None]


def option(name: str, section: type[Any], key: str) -> Callable[[Command], Command]:
    """The command-line option of a key: help, bounds and default are the section's. Given here, it comes first."""
    (found,) = [one for one in fields(section) if one.name == key]
    metadata, default = found.metadata, found.default
    kinds: dict[str, Any] = {
        "Path": click.Path(path_type=Path),
        "float": Finite(min=metadata["least"], max=metadata["most"]),
        "int": click.IntRange(metadata["least"], metadata["most"]),
        # "" is how a file or a variable says that nothing is chosen; an argument is then left out.
        "str": click.Choice([one for one in metadata["choices"] if one]) if metadata["choices"] else click.STRING,
    }
    kind = str(found.type).partition(" ")[0]
    shown = "" if default in (None, "", False) else f"  [default: {default}]"
    text = f"{metadata['help']}  [env: {variable_of(section.SECTION, key, metadata)}]{shown}"
    parameter = f"{section.SECTION}__{key}"
    if kind == "bool":
        return click.option(name, parameter, is_flag=True, default=None, help=text)
    return click.option(name, parameter, type=kinds[kind], help=text)


@click.group(cls=LazyGroup, table=COMMANDS, invoke_without_command=True, epilog=NOTICE)
@click.option(
    "--config", type=click.Path(path_type=Path), envvar="CXR_EDGE_CONFIG", help="TOML file with all settings."
)
@option("--watch", AgentSettings, "watch")
@option("--bundle", AgentSettings, "bundle")
@option("--mqtt", MqttSettings, "url")
@option("--mqtt-password-file", MqttSettings, "password_file")
@option("--mqtt-ca", MqttSettings, "ca")
@option("--mqtt-cert", MqttSettings, "cert")
@option("--mqtt-key", MqttSettings, "key")
@option("--requests", RequestsSettings, "enabled")
@option("--state", AgentSettings, "state")
@option("--device", AgentSettings, "device")
@click.option("--once", is_flag=True, help="Score what is there, send it, end.")
@option("--poll", IntakeSettings, "poll_s")
@option("--settle", IntakeSettings, "settle_s")
@option("--grace", IntakeSettings, "grace_s")
@option("--done", IntakeSettings, "done")
@option("--rejected", IntakeSettings, "rejected")
@option("--threads", AgentSettings, "threads")
@option("--precision", AgentSettings, "precision")
@option("--trusted-keys", AgentSettings, "trusted_keys")
@option("--names", AgentSettings, "names")
@option("--flush", AgentSettings, "flush_s")
@click.option("--quiet", is_flag=True, help="Log warnings only.")
@click.pass_context
def command(ctx: click.Context, /, *, config: Path | None, once: bool, quiet: bool, **given: Any) -> None:
    """Score every X-ray that arrives in a folder; report it once.

    A file counts as finished when its writer has closed it or it was moved in; where nobody tells, when it has kept
    still for --settle seconds. One that cannot be decoded is refused after --grace seconds.

    What is given here comes before the environment, that before the --config file.
    """
    arguments: dict[str, dict[str, Any]] = {}
    for parameter, value in given.items():
        section, _, key = parameter.partition("__")
        arguments.setdefault(section, {})[key] = value
    if quiet:
        arguments["log"] = {"level": "warning"}
    ctx.obj = load_settings(config, arguments=arguments)
    if ctx.invoked_subcommand is not None:
        return
    from firmware_bridge.agent import run_agent

    set_up(ctx.obj.section(LogSettings))
    summary = run_agent(ctx.obj, once=once)
    tally = summary.tally
    unsent = "" if summary.unsent is None else f", {summary.unsent} unsent"
    click.echo(
        f"{tally.scored} scored ({tally.by_decision['positive']} positive), {tally.refused} refused, "
        f"{tally.known} repeated{unsent}. {NOTICE}"
    )
