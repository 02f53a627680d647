"""`cxr-edge score`: parse, score, print the summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from firmware_bridge.errors import ConfigError
from firmware_bridge.result import NOTICE

if TYPE_CHECKING:
    from toolkit.archive.run import ScoreSummary


@click.command("score", epilog=NOTICE)
@click.argument("source")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of Parquet files, for example results.parquet.",
)
@click.option("--bundle", type=click.Path(path_type=Path), help="A .cxr file.  [default: the one that ships]")
@click.option("--precision", type=click.Choice(["int8", "fp16"]), help="Of the model.  [default: the bundle's]")
@click.option("--refuse-outside", is_flag=True, help="No score for X-rays outside the training population.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="What scores.")
@click.option("--workers", type=click.IntRange(0, 10_000), help="Processes; 0: this one itself.  [default: one a core]")
@click.option("--ray-address", default="", metavar="HOST:PORT", help="Of a Ray cluster.  [default: one of its own]")
@click.option("--path-column", default="path", show_default=True, help="Lists: the X-ray's path or address.")
@click.option("--root", default="", help="Lists: what relative paths are taken from.  [default: the list's folder]")
@click.option("--keep", multiple=True, metavar="COLUMN", help="Lists: carry this column into the results. Repeatable.")
@click.option(
    "--storage-option",
    "storage",
    multiple=True,
    metavar="KEY=VALUE",
    help="For fsspec's file system, for example endpoint_url=http://127.0.0.1:9000. Repeatable.",
)
@click.option(
    "--commit-every",
    "commit_s",
    type=click.FloatRange(0.1, 3600),
    default=60.0,
    show_default=True,
    help="Seconds between two files of results: what a kill costs at most.",
)
@click.option("--retry-unreadable", is_flag=True, help="Try again what could not be read before.")
@click.option(
    "--fhir",
    type=click.Path(path_type=Path),
    help="When all is scored, write it as FHIR R4 as well: one Bundle a line, nobody named.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    source: str,
    out: Path,
    bundle: Path | None,
    precision: str | None,
    refuse_outside: bool,
    engine: str,
    workers: int | None,
    ray_address: str,
    path_column: str,
    root: str,
    keep: tuple[str, ...],
    storage: tuple[str, ...],
    commit_s: float,
    retry_unreadable: bool,
    fhir: Path | None,
    as_json: bool,
) -> None:
    """Score all X-rays of SOURCE: a folder, an index or CSV, a Parquet list; here or at an address (s3://...).

    Cut off? The same command goes on. Not for diagnosis.
    """
    from toolkit.archive.fhir import check_fhir_file, write_fhir
    from toolkit.archive.run import RAY, ScoreOptions, score_archive
    from toolkit.archive.source import SourceOptions

    if ray_address and engine != RAY:
        raise ConfigError(
            "--ray-address without Ray",
            expected="--engine ray",
            came=f"--engine {engine}",
            do="add it, or leave both out",
        )
    if fhir is not None:
        check_fhir_file(fhir)
    done = score_archive(
        source,
        out,
        ScoreOptions(
            bundle=bundle,
            precision=precision,
            refuse_outside=refuse_outside,
            engine=engine,
            workers=workers,
            ray_address=ray_address,
            commit_s=commit_s,
            retry_unreadable=retry_unreadable,
            source=SourceOptions(path_column=path_column, keep=keep, root=root, storage=_pairs(storage)),
        ),
    )
    bundles = None if fhir is None else write_fhir(out, fhir)
    if as_json:
        click.echo(json.dumps(done.to_json()))
    else:
        _say(done)
        if bundles is not None:
            click.echo(f"FHIR: {bundles} Bundles in {fhir}")
        click.echo(NOTICE)


def _say(done: ScoreSummary) -> None:
    from toolkit.data.index import printable

    click.echo(
        f"{done.scored} scored, {done.refused} refused, {done.unreadable} unreadable in {done.seconds:.0f} s "
        f"({done.per_s:.3g}/s); {done.before} were done before"
        + (f", {done.unreadable_before} of them unreadable" if done.unreadable_before else "")
    )
    for what, why in sorted(done.why_unreadable.items(), key=lambda one: -one[1]["count"])[:_REASONS]:
        click.echo(
            f"unreadable: {why['count']} x {what}, for example {printable(why['path'])}: {printable(why['came'])}"
        )
    if done.repeated:
        click.echo(f"{done.repeated} rows of the list name an X-ray again: each path is scored once")
    passed = {name: count for name, count in done.passed_over.items() if count}
    if passed:
        click.echo("passed over: " + ", ".join(f"{count} {_PASSED[name]}" for name, count in passed.items()))
    click.echo(f"Results: {done.out}")
    if done.unreadable_table:
        click.echo(f"Unreadable: {done.unreadable_table}; --retry-unreadable tries these again")


_REASONS = 5
_PASSED = {
    "files": "files that are no X-rays by their names",
    "links": "links to folders",
    "nameless": "rows without a path",
}


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if wrong := [text for text, (key, found, _) in zip(texts, pairs, strict=True) if not (key and found)]:
        raise ConfigError(
            "a --storage-option cannot be read",
            expected="KEY=VALUE",
            came=f"{len(wrong)} without a '='",  # not quoted: it may be a key
            do="write each option as KEY=VALUE",
        )
    return {key: value for key, _, value in pairs}
