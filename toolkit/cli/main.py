"""Entry point of `cxr-edge`. It imports little: an agent that starts holds its signals before all that takes time."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Sequence

from firmware_bridge.signals import hold


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `cxr-edge` and leave with its exit code; what goes wrong becomes a message, never a traceback.

    Only an error that nobody foresaw keeps its traceback: it is a bug, and the traceback is what a report of it needs.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["agent"] and "status" not in given:
        hold({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names may hold bytes that are no text; they must not end a run that has already done its work.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run `cxr-edge` with `arguments` (default: the process's) and return the exit code."""
    from toolkit.cli import commands

    return commands.run(arguments)


if __name__ == "__main__":
    main()
