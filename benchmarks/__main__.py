"""`python -m benchmarks`: everything from nothing, or from what is in the work folder already."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from benchmarks.contenders import contenders
from benchmarks.environments import build, size_bytes
from benchmarks.remote import ROOT
from firmware_bridge.errors import CxrEdgeError, InputError
from firmware_bridge.result import NOTICE
from toolkit.extras import require_modules
from toolkit.files import write_atomically

PICTURES = (".jpg", ".jpeg", ".png")
REPORT = "report.json"


@click.command(epilog=NOTICE)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=ROOT / "samples",
    help="Folder of JPEG or PNG X-rays that are timed, searched with its subfolders. [default: the samples]",
)
@click.option("--limit", default=12, show_default=True, type=click.IntRange(1), help="At most so many of them.")
@click.option(
    "--index",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=ROOT / "samples" / "index.csv",
    help="Index whose split 'train' calibrates the peers' int8, and whose split 'test' gives AUROC. "
    "[default: the samples, of which some are in the training data]",
)
@click.option("--positive", default="pneumonia", show_default=True, help="The index's label that means sick.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Turns of each contender.")
@click.option("--threads", multiple=True, default=(1, 2), show_default=True, type=click.IntRange(1, 64))
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=ROOT / "runs" / "benchmarks",
    help="Folder for environments (3.5 GB), model files and the report. [default: runs/benchmarks]",
)
@click.option("--prepare", is_flag=True, help="Make environments and model files, and measure nothing yet.")
@click.option("--page/--no-page", default=True, help="Write the tables and plots into docs/ too.")
def main(
    images: Path,
    limit: int,
    index: Path,
    positive: str,
    rounds: int,
    threads: tuple[int, ...],
    work: Path,
    prepare: bool,
    page: bool,
) -> None:
    """Time the naive scripts, other runtimes and ours on the same X-rays, in turns, in one run."""
    require_modules("onnxruntime", "openvino", "nncf", "tf2onnx", extra="bench")
    from benchmarks.files import make_files, preprocessing_of, read_held_out
    from benchmarks.measure import Plan, measure

    pictures = _pictures(images, limit)
    files = make_files(index, positive, work)
    everybody = contenders()
    names = list(dict.fromkeys(one.environment for one in everybody))
    pythons, notes = build(names, work / "environments")
    if prepare:
        return
    plan = Plan(
        contenders=everybody,
        pythons=pythons,
        files=files,
        preprocessing=preprocessing_of(),
        images=pictures,
        held_out=read_held_out(files),
        threads=sorted(set(threads)),
        rounds=rounds,
    )
    report = measure(plan, package_bytes={name: size_bytes(path) for name, path in pythons.items()}, notes=notes)
    write_atomically(work / REPORT, json.dumps(report, indent=1) + "\n")
    from benchmarks.page import update
    from benchmarks.table import tables

    click.echo(tables(report))
    if page:
        update(report, ROOT / "docs")
    click.echo(NOTICE)


def _pictures(folder: Path, limit: int) -> list[Path]:
    """At most `limit` pictures, spread evenly over the folder."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if not found:
        raise InputError(
            f"nothing to measure in {folder}",
            expected=f"X-rays ({', '.join(PICTURES)})",
            came="a folder without any",
            do="name another folder with --images",
        )
    step = max(1.0, len(found) / limit)
    return [found[int(i * step)] for i in range(min(limit, len(found)))]


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except CxrEdgeError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
