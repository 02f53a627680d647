"""`cxr-edge train`: floating point alone, for teachers and for variants that no device runs."""

from __future__ import annotations

from pathlib import Path

from toolkit.config import TrainConfig
from toolkit.data.index import Index
from toolkit.data.readers import read_class_folders
from toolkit.distill import read_teachers
from toolkit.files import only_here
from toolkit.interrupt import remembering_interrupts
from toolkit.preflight import check_resources, check_weights
from toolkit.progress import waiting
from toolkit.train_qat import Say, begin_run, prepare_data, require_positive


def train_float(source: Path, config: TrainConfig, *, out: Path, say: Say) -> Path:
    """Train in floating point on the X-rays of `source`; started again, it goes on where it was cut off.

    The run holds `models/model.float.tflite`, its calibration, its evaluation inside where there is a test split, a
    report, and the weights to go on from in `float/final.weights.h5`. There is no bundle.

    Args:
        source: an index, or a folder of class folders.
        config: as for `train_qat`; what concerns pruning and quantization is not used.
        out: folder of runs; the run goes to `out / config.name`.
        say: told one line for each step of interest.

    Returns:
        The run's folder.

    Raises:
        AuditError: the splits leak and `config.allow_leaks` is off.
        ConfigError: the run's folder belongs to another configuration or other data, or another process is in it.
        InputError: the X-rays cannot be used.
        ModelError: the graph cannot be built or converted.
        ResourceError: memory or disk will not do.
    """
    folder = out / config.name
    given = read_class_folders(source) if source.is_dir() else Index.read(source)
    require_positive(given, config)
    check_weights(config.weights, backbone=config.backbone)
    if config.teacher != "none":
        read_teachers(config.teacher, positive=config.positive)  # before the folder is claimed for them
    with only_here(folder), remembering_interrupts():
        check_resources(folder, images=len(given), size_px=config.size_px, batch_size=config.batch_size)
        index, report = prepare_data(given, config, folder=folder, say=say)
        with waiting("starting TensorFlow"):
            from toolkit.calibrate_run import calibrate_run
            from toolkit.evaluate import evaluate
            from toolkit.export_run import export_float
            from toolkit.model_files import from_run
            from toolkit.report import training_report
            from toolkit.score_index import NamedIndex
            from toolkit.train import architecture, train_float_only
            from toolkit.workers import gather
        with waiting("waiting for the other workers"):
            workers = gather(config.distribute, batch_size=config.batch_size)
        data = begin_run(index, report, config, folder=folder, say=say)
        model = train_float_only(data, config, folder=folder, say=say, workers=workers)
        exported = export_float(model, data, arch=architecture(config), folder=folder)
        calibrate_run(exported, data, config, folder=folder)
        test = index.select(split="test")
        if len(test):
            named = NamedIndex("inside", folder / "index.csv", "test", test)
            evaluate(from_run(folder), [named], out=folder, workers=config.workers or 1)
        training_report(folder)
    return folder
