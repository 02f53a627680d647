"""Which state folder a command that looks at an agent from outside means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from firmware_bridge.errors import ConfigError
from firmware_bridge.settings import Settings, load_settings

Command = Callable[..., None]


def state_options(function: Command) -> Command:
    """The options --state, --watch and --config, with the agent's own environment variables."""
    path = click.Path(path_type=Path)
    for option in (
        click.option("--config", type=path, envvar="CXR_EDGE_CONFIG", help="The agent's TOML file."),
        click.option("--watch", type=path, envvar="CXR_EDGE_WATCH", help="The folder that the agent watches."),
        click.option("--state", type=path, envvar="CXR_EDGE_STATE", help="The agent's state folder."),
    ):
        function = option(function)
    return function


def state_folder(state: Path | None, watch: Path | None, config: Path | None) -> Path:
    """The folder that one of them names, in the agent's own precedence.

    Raises:
        ConfigError: none of them does, or the config file is wrong.
    """
    if state is not None:
        return state
    arguments: dict[str, dict[str, Any]] = {"agent": {"watch": watch}}
    return folder_of(load_settings(config, arguments=arguments))


def folder_of(settings: Settings) -> Path:
    """The folder that an agent with these settings uses.

    Raises:
        ConfigError: they name neither a state folder nor a watched one.
    """
    from firmware_bridge.agent_folders import default_state
    from firmware_bridge.agent_settings import AgentSettings

    options = settings.section(AgentSettings)
    if options.state is not None:
        return options.state
    if options.watch is not None:
        return default_state(options.watch.resolve())
    raise ConfigError(
        "which agent is not said",
        expected="--state, --watch or --config, as the agent was given",
        came="none of them",
        do="add one; a service's state folder is /var/lib/cxr-edge",
    )
