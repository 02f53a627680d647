"""The options of the commands that train: one for each field of the configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

import click

from toolkit.config import TrainConfig


def field_options(*, leave_out: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that adds an option for each field of `TrainConfig` but those that `leave_out` names."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        for field in reversed([f for f in dataclasses.fields(TrainConfig) if f.name not in leave_out]):
            name = field.name.replace("_", "-")
            flag = f"--{name}/--no-{name}" if isinstance(field.default, bool) else f"--{name}"
            shown = str(field.default).lower() if isinstance(field.default, bool) else field.default
            function = click.option(
                flag,
                field.name,
                type=type(field.default),
                default=None,
                envvar=f"CXR_EDGE_TRAIN_{field.name.upper()}",
                help=f"{field.metadata['help']}  [default: {shown}]",
            )(function)
        return function

    return decorate
