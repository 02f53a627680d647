"""Secrets for commands: from a file, from the environment, or asked for; never from the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from firmware_bridge.errors import ConfigError


def first_line(file: Path) -> str:
    """The first line of a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file} cannot be read",
            expected="a file whose first line is the secret",
            came=str(error),
            do="mend the path or the file",
        ) from error
    return lines[0] if lines else ""


def read_secret(
    file: Path | None, *, variable: str, prompt: str, ask: bool, option: str, twice: bool = False
) -> str | None:
    """A secret: the first line of `file`, else the environment's `variable`, else (with `ask`) what is typed.

    Args:
        file: what `option` names.
        variable: of the environment.
        prompt: what is asked for.
        ask: whether to ask at all.
        option: the one that names a file, for messages.
        twice: ask for it twice.

    Raises:
        ConfigError: the file cannot be read, or nobody is there to be asked.
    """
    if file is not None:
        return first_line(file)
    if variable in os.environ:
        return os.environ[variable]
    if not ask:
        return None
    if not sys.stdin.isatty():
        raise ConfigError(
            f"{prompt} is needed",
            expected=f"a terminal to ask on, a file, or {variable} in the environment",
            came="none of them",
            do=f"give {option} FILE, or set {variable}",
        )
    answer: str = click.prompt(prompt, hide_input=True, confirmation_prompt=twice, err=True)
    return answer
