"""`cxr-edge data index|split|audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from firmware_bridge.errors import AuditError, ConfigError
from firmware_bridge.result import NOTICE

if TYPE_CHECKING:
    from toolkit.data.index import Index

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_ANY = click.Path(path_type=Path)
_STANDARD = "[default: %s, if there; '' for none]"


@click.group("data", epilog=NOTICE)
def command() -> None:
    """Index, split and audit labelled X-rays."""


@command.command("index", epilog=NOTICE)
@click.argument("source", type=_ANY)
@click.option("--out", type=_FILE, default=Path("index.csv"), show_default=True, help="The index to write.")
@click.option(
    "--kind",
    type=click.Choice(["auto", "folders", "csv", "nih", "rsna", "chexpert"]),
    default="auto",
    show_default=True,
    help="What SOURCE is. auto: a folder of classes, or a table told by its columns.",
)
@click.option("--images", type=_FOLDER, help="Folder of the images of a table.  [default: the table's]")
@click.option("--name", help="Name of the data set.  [default: the folder's]")
@click.option("--label", "labels", multiple=True, metavar="VALUE=LABEL", help="Rename a class. May be repeated.")
@click.option("--skip-unknown-labels", is_flag=True, help="Leave rows out whose label no --label names.")
@click.option("--patient-pattern", metavar="REGEX", help="Folders: first group = patient, in the path below the class.")
@click.option("--path-column", default="path", show_default=True, help="Tables: the image file.")
@click.option("--label-column", default="label", show_default=True, help="Tables: the class.")
@click.option(
    "--patient-column",
    help=f"Tables: whose X-ray it is; without one the file name tells it.  {_STANDARD % 'patient_id'}",
)
@click.option("--view-column", help=f"Tables: PA, AP or LL.  {_STANDARD % 'view'}")
@click.option("--age-column", help=f"Tables: age, in years or as in DICOM (063Y, 018M).  {_STANDARD % 'age'}")
@click.option("--sex-column", help=f"Tables: M, F or O.  {_STANDARD % 'sex'}")
@click.option("--split-column", help=f"Tables: train, validation or test.  {_STANDARD % 'split'}")
@click.option("--width-column", default="", help="Tables: width of the original, where the files here are smaller.")
@click.option("--height-column", default="", help="Tables: height of the original, likewise.")
@click.option("--finding", default="Pneumonia", show_default=True, help="NIH, CheXpert: the finding that is positive.")
@click.option("--mapping", type=_FILE, help="RSNA: the JSON that maps its images to NIH's, to tell persons apart.")
def index_command(
    source: Path,
    out: Path,
    kind: str,
    images: Path | None,
    name: str | None,
    labels: tuple[str, ...],
    skip_unknown_labels: bool,
    patient_pattern: str | None,
    finding: str,
    mapping: Path | None,
    **column: str | None,
) -> None:
    """Read SOURCE, a folder of classes or a table, into one index."""
    from toolkit.data import chexpert, columns, nih_rsna, readers, tables
    from toolkit.data.index import printable

    renamed = _renamed(labels, skip_others=skip_unknown_labels)
    kind = tables.guess_kind(source) if kind == "auto" else kind
    if kind == "folders":
        index = readers.read_class_folders(source, labels=renamed, patient_pattern=patient_pattern, source=name)
    elif kind == "nih":
        index = nih_rsna.read_nih(source, images=images, positive=finding, source=name or "nih")
    elif kind == "chexpert":
        index = chexpert.read_chexpert(source, images=images, positive=finding, source=name or "chexpert")
    elif kind == "rsna":
        index = nih_rsna.read_rsna(source, images=images, mapping=mapping, source=name or "rsna")
    else:
        header = columns.header_of(source)
        chosen = columns.chosen_columns(header, {key.removesuffix("_column"): name for key, name in column.items()})
        if unused := columns.unused_columns(header, chosen):
            click.echo(f"columns not used: {printable(', '.join(unused))}")
        index = tables.read_table(
            source,
            columns=chosen,
            images=images,
            labels=renamed,
            skip_unknown_labels=skip_unknown_labels,
            source=name,
        )
    index.write(out)
    _say(index, out)


@command.command("split", epilog=NOTICE)
@click.argument("index_file", metavar="INDEX", type=_ANY)
@click.option("--out", type=_FILE, help="The index to write.  [default: INDEX itself]")
@click.option("--validation", default=0.1, show_default=True, help="Share of the X-rays.")
@click.option("--test", default=0.1, show_default=True, help="Share of the X-rays.")
@click.option("--seed", default=0, show_default=True, help="The same seed divides the same way.")
@click.option("--keep-test", is_flag=True, help="Keep the test rows as they are; leave their patients' others out.")
@click.option("--pictures/--no-pictures", default=True, help="Keep equal and near-equal pictures on one side.")
def split_command(
    index_file: Path, out: Path | None, validation: float, test: float, seed: int, keep_test: bool, pictures: bool
) -> None:
    """Divide INDEX into train, validation and test, by patient."""
    from toolkit.data.audit import audit
    from toolkit.data.index import Index
    from toolkit.data.split import patient_split

    index = Index.read(index_file)
    together = audit(index).same_picture() if pictures else ()
    divided = patient_split(
        index, validation=validation, test=test, seed=seed, keep_test=keep_test, keep_together=together
    )
    divided.write(out or index_file)
    _say(divided, out or index_file)


@command.command("audit", epilog=NOTICE)
@click.argument("index_file", metavar="INDEX", type=_ANY)
@click.option("--out", type=_FOLDER, default=Path("audit"), show_default=True, help="Folder for HTML and JSON.")
@click.option("--allow-leaks", is_flag=True, help="Exit with 0 though the splits leak.")
def audit_command(index_file: Path, out: Path, allow_leaks: bool) -> None:
    """Look for duplicates, shared patients, damage and shortcuts.

    Exit code 4 if the splits leak.
    """
    from toolkit.data.audit import audit
    from toolkit.data.audit_report import write_report
    from toolkit.data.index import Index
    from toolkit.data.text import audit_lines

    report = audit(Index.read(index_file))
    page, data = write_report(report, out)
    for line in audit_lines(report):
        click.echo(line)
    click.echo(f"{click.format_filename(page)}\n{click.format_filename(data)}\n{NOTICE}")
    if report.leaks and not allow_leaks:
        raise AuditError(
            f"the splits of {click.format_filename(index_file)} leak",
            expected="no patient and no picture in two splits",
            came="; ".join(report.leak_reasons()),
            do="see the report; divide anew with: cxr-edge data split, or accept it with --allow-leaks",
        )


def _renamed(labels: tuple[str, ...], *, skip_others: bool) -> dict[str, str] | None:
    if skip_others and not labels:
        raise ConfigError(
            "--skip-unknown-labels without a --label",
            expected="at least one --label VALUE=LABEL: every other label is then unknown",
            came="none, so that no label is unknown",
            do="name the labels to keep, for example --label NORMAL=normal --label PNEUMONIA=pneumonia",
        )
    pairs = [label.partition("=") for label in labels]
    if any(not value or not label for value, _, label in pairs):
        raise ConfigError(
            "a --label cannot be read",
            expected="VALUE=LABEL, for example NORMAL=normal",
            came=", ".join(labels),
            do="write each class as one --label",
        )
    return {value: label for value, _, label in pairs} or None


def _say(index: Index, out: Path) -> None:
    from toolkit.data.text import index_lines

    click.echo(f"{click.format_filename(out)}: " + "\n".join(index_lines(index)))
