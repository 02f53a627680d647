"""The whole line: index, audit, split, train, prune, quantize, export, calibrate, evaluate inside, bundle, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firmware_bridge.errors import AuditError, ConfigError
from toolkit.config import TrainConfig
from toolkit.data.audit import AuditReport, audit
from toolkit.data.audit_report import write_report
from toolkit.data.index import Index
from toolkit.data.readers import read_class_folders
from toolkit.data.split import patient_split
from toolkit.preflight import check_resources

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run left behind.

    Attributes:
        folder: of the run.
        bundle: NAME.cxr in it.
        report: report.html in it.
    """

    folder: Path
    bundle: Path
    report: Path


def train_qat(source: Path, config: TrainConfig, *, out: Path, say: Say) -> Finished:
    """Train and compress on the X-rays of `source`; started again, it goes on where it was cut off.

    Args:
        source: an index, or a folder of class folders.
        config: everything that decides the result.
        out: folder of runs; the run goes to `out / config.name`.
        say: told one line for each step of interest.

    Raises:
        AuditError: the splits leak and `config.allow_leaks` is off.
        ConfigError: the run's folder belongs to another configuration or other data.
        ExportGateError: int8 lost too much.
        InputError: the X-rays cannot be used.
        ModelError: the graph cannot be built, quantized or converted.
        ResourceError: memory or disk will not do.
    """
    folder = out / config.name
    index, report = prepare_data(source, config, folder=folder, say=say)
    check_resources(folder, images=len(index), size_px=config.size_px, batch_size=config.batch_size)
    # TensorFlow takes seconds to import: everything that can fail without it has passed by now.
    from toolkit.bundle_run import bundle_run, calibrate_run
    from toolkit.evaluate import evaluate
    from toolkit.export_run import export_run
    from toolkit.report import training_report
    from toolkit.score_index import NamedIndex
    from toolkit.train import architecture, claim_run, read_data, train
    from toolkit.under_test import from_run

    claim_run(folder, config)
    index.write(folder / "index.csv")
    write_report(report, folder)
    data = read_data(index, config, cache=folder / "cache")
    for path, reason in data.unreadable:
        say(f"left out: {path}: {reason}")
    trained = train(data, config, folder=folder, say=say)
    exported = export_run(trained, data, config, arch=architecture(config), folder=folder)
    for model in exported.values():
        say(_line(model.row))
    fits = calibrate_run(exported, data, config, folder=folder)
    inside = {}
    test = index.select(split="test")
    if len(test):
        named = NamedIndex("inside", folder / "index.csv", "test", test)
        evaluation = evaluate(from_run(folder), [named], out=folder, workers=config.workers or 1)
        inside = evaluation["sets"][0]["results"]["int8"]["metrics"]
    bundle = bundle_run(exported, fits, data, config, index=index, folder=folder, inside=inside)
    return Finished(folder=folder, bundle=bundle, report=training_report(folder))


def prepare_data(source: Path, config: TrainConfig, *, folder: Path, say: Say) -> tuple[Index, AuditReport]:
    """The index with splits, and its audit.

    A run that was begun keeps the splits that it began with. An index without splits gets them by patient; pictures
    that the audit finds twice stay on one side.

    Raises:
        AuditError: the splits leak and `config.allow_leaks` is off.
        ConfigError: the run was begun with other X-rays.
        InputError: the source cannot be read as an index.
    """
    given = read_class_folders(source) if source.is_dir() else Index.read(source)
    begun = folder / "index.csv"
    if begun.exists():
        index = Index.read(begun)
        if {row.path for row in index} - {row.path for row in given}:
            raise ConfigError(
                f"{folder} holds a run on other X-rays",
                expected=f"the X-rays of {begun}",
                came=f"{source}",
                do="choose another --name, or remove that folder to start anew",
            )
        report = audit(index)
    else:
        report = audit(given)
        index = given
        if not _has_splits(given):
            index = patient_split(
                given,
                validation=config.validation_share,
                test=config.test_share,
                seed=config.seed,
                keep_test=any(row.split == "test" for row in given),
                keep_together=report.same_picture(),
            )
            report = report.after_split(index)
    counts = {split: len(index.select(split=split)) for split in ("train", "validation", "test")}
    say("X-rays: " + ", ".join(f"{n} {split}" for split, n in counts.items()))
    _refuse_leaks(report, config, folder)
    return index, report


def _has_splits(index: Index) -> bool:
    return {"train", "validation"} <= {row.split for row in index}


def _refuse_leaks(report: AuditReport, config: TrainConfig, folder: Path) -> None:
    if not report.leaks or config.allow_leaks:
        return
    page, _ = write_report(report, folder)
    raise AuditError(
        "the splits leak: any figure from them would be worthless",
        expected="no patient and no picture in two splits",
        came="; ".join(report.leak_reasons()),
        do=f"see {page}; divide anew with: cxr-edge data split, or accept it with --allow-leaks",
    )


def _line(row: Mapping[str, Any]) -> str:
    return (
        f"{row['file']}: AUROC on validation {row['auroc_validation']:.4f}, "
        f"{row['zero_share_pruned']:.1%} zeros in pruned kernels, "
        f"{row['float_operators']} float operators, {row['partitions']} partition(s)"
    )
