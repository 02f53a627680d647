"""The whole line: index, audit, split, train, prune, quantize, export, calibrate, evaluate inside, bundle, report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_bridge.errors import AuditError, ConfigError, InputError
from toolkit.config import TrainConfig
from toolkit.data.audit import AuditReport, audit
from toolkit.data.audit_report import write_report
from toolkit.data.index import Index
from toolkit.data.readers import read_class_folders
from toolkit.data.split import patient_split
from toolkit.deployable import require_deployable
from toolkit.distill import read_teachers
from toolkit.earlier_runs import refuse_learned
from toolkit.extras import require_modules
from toolkit.files import only_here, write_atomically
from toolkit.interrupt import remembering_interrupts
from toolkit.left_out import left_out_note, read_left_out, write_left_out
from toolkit.origins import origins_of, write_origins
from toolkit.preflight import check_resources, check_weights
from toolkit.progress import waiting

if TYPE_CHECKING:
    from toolkit.training_data import TrainingData

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
        BundleError: a teacher cannot be opened.
        ConfigError: the run's folder belongs to another configuration or other data, another process is in it, or
            the variant is not for a device.
        ExportGateError: int8 lost too much.
        InputError: the X-rays cannot be used.
        ModelError: the graph cannot be built, quantized or converted.
        ResourceError: memory or disk will not do.
    """
    folder = out / config.name
    given = read_class_folders(source) if source.is_dir() else Index.read(source)
    require_positive(given, config)
    check_weights(config.weights, backbone=config.backbone)
    if config.teacher != "none":
        read_teachers(config.teacher, positive=config.positive)  # before the folder is claimed for them
    require_deployable(config)
    origins_of(config)  # a teacher that is not there is told now, not after TensorFlow's start
    if config.onnx:
        require_modules("tf2onnx", "onnx", "onnxruntime", extra="onnx")
    with only_here(folder), remembering_interrupts():
        finished = _finished_before(folder, config, given)
        if finished:
            say(f"{folder}: finished before, nothing has changed; remove it to start anew")
            return finished
        check_resources(folder, images=len(given), size_px=config.size_px, batch_size=config.batch_size)
        index, report = prepare_data(given, config, folder=folder, say=say)
        finished = _train_and_export(index, report, config, folder=folder, say=say)
        write_atomically(folder / _DONE, _done(config, given))
    return finished


def _train_and_export(index: Index, report: AuditReport, config: TrainConfig, *, folder: Path, say: Say) -> Finished:
    with waiting("starting TensorFlow"):
        # It takes seconds to import: everything that can fail without it has passed by now.
        from toolkit.bundle_folder import bundle_from_run
        from toolkit.calibrate_run import calibrate_run
        from toolkit.evaluate import evaluate
        from toolkit.export_run import export_run
        from toolkit.model_files import from_run
        from toolkit.report import training_report
        from toolkit.score_index import NamedIndex
        from toolkit.suitability_run import suitability_run
        from toolkit.train import architecture, train

    data = begin_run(index, report, config, folder=folder, say=say)
    trained = train(data, config, folder=folder, say=say)
    exported = export_run(trained, data, config, arch=architecture(config), folder=folder)
    for model in exported.values():
        say(_line(model.row))
    calibrate_run(exported, data, config, folder=folder)
    suitability_run(folder, index, workers=config.workers or 1, say=say)
    test = index.select(split="test")
    if len(test):
        named = NamedIndex("inside", folder / "index.csv", "test", test)
        evaluate(from_run(folder), [named], out=folder, workers=config.workers or 1)
    page = training_report(folder)  # before the bundle, whose ONNX form may be refused
    bundle = bundle_from_run(folder, name=config.name, golden=config.golden, onnx=config.onnx)
    return Finished(folder=folder, bundle=bundle, report=page)


def begin_run(index: Index, report: AuditReport, config: TrainConfig, *, folder: Path, say: Say) -> TrainingData:
    """Make `folder` the run's, put index, audit and configuration into it, and load the X-rays.

    Raises:
        ConfigError: the folder holds a run of another configuration.
        InputError: a split is empty, holds one class only, or none of it can be read.
    """
    from toolkit.lungs.asset import run_finder
    from toolkit.train import claim_run
    from toolkit.training_data import read_data

    claim_run(folder, config)
    index.write(folder / "index.csv")
    origins = origins_of(config)
    write_origins(origins, folder)
    for warning in origins.warnings(row.path for row in index if row.split == "test"):
        say(warning)
    write_report(report, folder)
    finder = run_finder(folder) if config.lungs else None
    data = read_data(index, config, cache=folder / "cache", finder=finder)
    for path, reason in data.unreadable:
        say(f"left out: {path}: {reason}")
    write_left_out(data.unreadable, index, folder)
    if note := left_out_note(read_left_out(folder), index):
        say(note)
    return data


_DONE = "done.json"


def _done(config: TrainConfig, given: Index) -> str:
    """What a finished run came from; equal for a second start that has nothing to do."""
    facts = repr(sorted(_facts(given, given)))
    said = {
        "version": metadata.version("cxr-edge"),
        "config": replace(config, workers=0).to_toml(),  # how many threads augment changes nothing
        "index": hashlib.sha256(facts.encode("utf-8", "surrogateescape")).hexdigest(),
    }
    return json.dumps(said, indent=1)


def _finished_before(folder: Path, config: TrainConfig, given: Index) -> Finished | None:
    finished = Finished(folder=folder, bundle=folder / f"{config.name}.cxr", report=folder / "report.html")
    done = folder / _DONE
    if not (done.is_file() and finished.bundle.is_file() and finished.report.is_file()):
        return None
    return finished if done.read_text(encoding="utf-8") == _done(config, given) else None


def require_positive(given: Index, config: TrainConfig) -> None:
    """Refuse X-rays without both classes.

    Raises:
        InputError: one class only, or nobody has the positive label.
    """
    if config.positive not in given.labels() or len(given.labels()) < 2:
        raise InputError(
            "the X-rays do not show both classes",
            expected=f"some labelled '{config.positive}', and others",
            came=", ".join(given.labels()) or "no X-ray",
            do="add the missing class, or name the positive label with --positive",
        )


def prepare_data(given: Index, config: TrainConfig, *, folder: Path, say: Say) -> tuple[Index, AuditReport]:
    """The index with splits, and its audit.

    A run that was begun keeps the splits that it began with. An index without splits gets them by patient; pictures
    that the audit finds twice stay on one side.

    Raises:
        AuditError: the splits leak, or weights or a teacher have learned from what is held out, and
            `config.allow_leaks` is off.
        ConfigError: the run was begun with other X-rays.
        InputError: the X-rays cannot be split.
    """
    begun = folder / "index.csv"
    if begun.exists():
        index = Index.read(begun)
        if not _begun_with(index, given):
            raise ConfigError(
                f"{folder} holds a run on other X-rays",
                expected=f"the X-rays, labels, patients and splits of {begun}",
                came=f"an index of {len(given)} X-rays that says otherwise",
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
    _refuse_unreadable(report)
    _refuse_leaks(report, config, folder)
    refuse_learned(index, config)
    return index, report


def _begun_with(index: Index, given: Index) -> bool:
    """Whether a run that holds `index` was begun with `given`."""
    held, said = _facts(index, given), _facts(given, given)
    # A test split that is kept leaves out other X-rays of its patients and pictures.
    keeps_test = not _has_splits(given) and any(row.split == "test" for row in given)
    return held <= said if keeps_test else held == said


def _facts(index: Index, given: Index) -> set[tuple[str, ...]]:
    """What training depends on; splits only where `given` came with them."""
    splits = _has_splits(given)
    return {(str(row.path), row.label, row.patient_id, row.split if splits else "") for row in index}


def _has_splits(index: Index) -> bool:
    return {"train", "validation"} <= {row.split for row in index}


def _refuse_unreadable(report: AuditReport) -> None:
    """Find out before the training that one of its splits has not one X-ray that can be read."""
    reasons = {row.path: reason for row, reason in report.unreadable}
    for split in ("train", "validation", "test"):
        rows = report.index.select(split=split).rows
        if rows and all(row.path in reasons for row in rows):
            raise InputError(
                f"none of the X-rays of the {split} split can be read",
                expected=f"{len(rows)} readable JPEG, PNG, TIFF or DICOM files",
                came=f"first problem: {rows[0].path}: {reasons[rows[0].path]}",
                do="check the paths in the index with: cxr-edge data audit",
            )


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
