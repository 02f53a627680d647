"""`cxr-edge bundle`: build, inspect, verify."""

from __future__ import annotations

import json
from pathlib import Path

import click

from firmware_bridge.result import NOTICE


@click.group("bundle", epilog=NOTICE)
def command() -> None:
    """Build, inspect and verify the one-file bundle."""


@command.command("build", epilog=NOTICE)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="File to write. Default: NAME.cxr in the run's folder.")
@click.option("--name", default="", help="Name of the bundle. Default: the folder's.")
@click.option("--golden", type=click.IntRange(0, 100), default=6, show_default=True, help="How many golden X-rays.")
def build(run: Path, out: Path | None, name: str, golden: int) -> None:
    """Build a bundle from the folder RUN of a finished training run."""
    from toolkit.bundle_folder import bundle_from_run

    click.echo(bundle_from_run(run, out, name=name, golden=golden))


@command.command("inspect", epilog=NOTICE)
@click.argument("bundle", type=click.Path(path_type=Path))
def inspect(bundle: Path) -> None:
    """Print the manifest of BUNDLE, and its id, as JSON."""
    from firmware_bridge.bundle import open_bundle

    with open_bundle(bundle) as opened:
        click.echo(json.dumps({"id": opened.id, **opened.manifest.to_json()}, ensure_ascii=False, indent=1))


@command.command("verify", epilog=NOTICE)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Of the interpreter.")
def verify(bundle: Path, threads: int) -> None:
    """Check the files and golden results of BUNDLE on this machine.

    Every file must be as listed, and the golden X-rays must give the same results here.
    """
    from firmware_bridge.bundle import open_bundle
    from firmware_bridge.golden import require_golden

    with open_bundle(bundle) as opened:
        outcomes = require_golden(opened, threads=threads)
        click.echo(f"{opened.manifest.name} {opened.id}")
    for outcome in outcomes:
        click.echo(f"  {outcome.file} {outcome.model}: {outcome.came:.4f} (expected {outcome.expected:.4f})")
    click.echo(f"files as listed, {len(outcomes)} golden results reproduced. {NOTICE}")
