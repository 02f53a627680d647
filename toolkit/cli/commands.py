"""The subcommands of `cxr-edge`, imported only when called (the agent starts fast); their errors and exit codes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import click

from firmware_bridge.errors import CxrEdgeError, MissingExtraError, ResourceError
from firmware_bridge.result import NOTICE
from toolkit.cli.lazy import LazyGroup
from toolkit.interrupt import Terminated

# name -> (module, one line of help); the module is imported when the command is called, its object is `command`.
COMMANDS = {
    "data": ("toolkit.cli.data", "Index, split and audit labelled X-rays."),
    "train-lungs": ("toolkit.cli.train_lungs", "Train the network that finds the lungs."),
    "train-qat": ("toolkit.cli.train_qat", "Train, prune 30%, quantize, export int8 and FP16."),
    "train": ("toolkit.cli.train", "Train in floating point alone: teachers."),
    "distill": ("toolkit.cli.distill", "Train a small model that learns from a saved teacher."),
    "evaluate": ("toolkit.cli.evaluate", "Score .tflite files on labelled X-rays, inside and outside."),
    "explain": ("toolkit.cli.explain", "Show where scores come from, right and wrong."),
    "crossval": ("toolkit.cli.crossval", "Train on each data set, test on all."),
    "ablate": ("toolkit.cli.ablate", "One table of what each option does."),
    "suitability": ("toolkit.cli.suitability", "Count what a bundle refuses to score, and why."),
    "recalibrate": ("toolkit.cli.recalibrate", "Fit a bundle to a site's own X-rays, without training."),
    "bundle": ("toolkit.cli.bundle", "Build, sign, inspect and verify the one-file bundle."),
    "agent": ("toolkit.cli.agent", "Score every X-ray that arrives in a folder; report it once."),
    "score": ("toolkit.cli.score", "Score an archive of any size into Parquet, on all cores or a Ray cluster."),
    "results": ("toolkit.cli.results", "Write an agent's results as CSV or JSON lines."),
    "audit": ("toolkit.cli.audit", "Look whether the log of all outcomes is whole."),
    "deploy": ("toolkit.cli.deploy", "Bring a bundle and the agent onto devices, proven there, or change nothing."),
    "rollback": ("toolkit.cli.rollback", "Let devices go back to the release that ran before."),
    "status": ("toolkit.cli.status", "Show what runs on devices, and how it is."),
    "logs": ("toolkit.cli.logs", "Print the service's log of devices."),
    "uninstall": ("toolkit.cli.uninstall", "Remove the agent from devices; results stay."),
    "benchmark": ("toolkit.cli.benchmark", "Time decode, preprocessing, inference and explanation."),
    "schema": ("toolkit.cli.schema", "Print the JSON Schema of a result, a manifest or a config."),
    "doctor": ("toolkit.cli.doctor", "Look for what would go wrong here, and how to mend it."),
}
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXIT_TERMINATED = 143  # 128 + SIGTERM
_FULL = (errno.ENOSPC, errno.EDQUOT)


@click.group(cls=LazyGroup, table=COMMANDS, epilog=NOTICE)
@click.version_option(package_name="cxr-edge")
def cxr_edge() -> None:
    """Chest X-ray models onto small devices."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run `cxr-edge` with `arguments` (default: the process's) and return the exit code."""
    try:
        outcome = cxr_edge.main(args=arguments, prog_name="cxr-edge", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo("\ninterrupted; what was finished before stands", err=True)
        # Click turns the one into the other.
        return EXIT_TERMINATED if isinstance(error.__cause__, Terminated) else EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) left. Python would complain once more while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        known = as_cxr_edge_error(error)
        if known is None:
            raise
        click.echo(f"error: {known}", err=True)
        return known.exit_code
    # Without standalone mode, click hands back the code that a command gave to `ctx.exit`.
    return outcome if isinstance(outcome, int) else 0


def as_cxr_edge_error(error: BaseException) -> CxrEdgeError | None:
    """The error of our tree that tells a user what `error` means, or None where that is not known."""
    if isinstance(error, CxrEdgeError):
        return error
    if isinstance(error, MemoryError):
        return ResourceError(
            "memory ran out",
            expected="enough free memory for this command",
            came=str(error) or "the system gave no more",
            do="close other programs, or lower the batch size, the number of workers or the image size",
        )
    if isinstance(error, OSError) and error.errno in _FULL:
        return ResourceError(
            f"the disk is full: {os.fsdecode(error.filename) if error.filename else 'a file could not be written'}",
            expected="enough free space for what is written",
            came=error.strerror or str(error),
            do="free some space (df -h shows where), or choose another folder, then give the same command again",
        )
    if isinstance(error, OSError) and error.filename is not None:
        return ResourceError(
            f"{os.fsdecode(error.filename)} cannot be used",
            expected="a file or folder that this user may read or write here",
            came=error.strerror or str(error),
            do="check the path and its permissions (ls -ld), or choose another",
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        from toolkit.extras import extra_of_module

        extra = extra_of_module(error.name)
        if extra is not None:
            return MissingExtraError.for_module(error.name, extra)
    return None
