"""Entry point of `cxr-edge`: subcommands are imported only when called, so that the agent starts fast."""

from __future__ import annotations

import importlib
import sys

import click

from firmware_bridge.errors import CxrEdgeError

# name -> (module, one line of help); the module is imported when the command is called, its object is `command`.
COMMANDS = {
    "data": ("toolkit.cli.data", "Index and audit labelled X-rays."),
    "train-qat": ("toolkit.cli.train_qat", "Train, prune 30%, quantize, export int8 and FP16."),
    "evaluate": ("toolkit.cli.evaluate", "Score .tflite files on labelled X-rays, inside and outside."),
    "bundle": ("toolkit.cli.bundle", "Build and inspect the one-file bundle."),
    "agent": ("toolkit.cli.agent", "Score every X-ray that arrives in a folder; report it once."),
    "benchmark": ("toolkit.cli.benchmark", "Time decode, preprocessing, inference and explanation."),
    "doctor": ("toolkit.cli.doctor", "Look for what would go wrong here, and how to mend it."),
}
NOTICE = "Not for diagnosis: a research tool, not a medical device."


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=_LazyGroup, epilog=NOTICE)
@click.version_option(package_name="cxr-edge")
def cxr_edge() -> None:
    """Chest X-ray models onto small devices."""


def main() -> None:
    """Run `cxr-edge`; an error of ours becomes its message and its exit code, never a traceback."""
    try:
        cxr_edge.main(standalone_mode=True)
    except CxrEdgeError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
