"""`train-qat`: float training, pruning, quantization-aware training. Each phase goes on where it was cut off."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firmware_bridge.errors import ConfigError
from toolkit.augment import Augmenter
from toolkit.average import Averaging
from toolkit.batch_norm import reestimate_batch_norm
from toolkit.config import TrainConfig, read_config
from toolkit.files import remember_content, replacing, require_unchanged, write_atomically
from toolkit.follow import FollowingStream, with_features
from toolkit.freeze import freeze_below
from toolkit.losses import Distillation
from toolkit.mix import Mixing
from toolkit.model import Architecture, build_classifier, copy_weights
from toolkit.phase import Phase, Schedule, run_phase
from toolkit.progress import waiting
from toolkit.prune import pruning_callbacks, seed_everything, strip_pruning, wrap_for_pruning
from toolkit.qat import calibrate_ranges, quantize_aware
from toolkit.stream import BatchStream, Floats, TrainingSet
from toolkit.training_data import TrainingData
from toolkit.weights import load_initial_weights, load_weights
from toolkit.workers import Workers, alone

Say = Callable[[str], None]
# Orders that no training epoch has, and how many batches are drawn in them.
_STATISTICS, _STATISTICS_BATCHES = 10**6, 30
_CALIBRATION, _CALIBRATION_BATCHES = 10**6 + 1, 8


@dataclass(frozen=True, slots=True)
class Trained:
    """The three models that export writes from; plain Keras but for the last.

    Attributes:
        float_model: before pruning: what int8 is measured against.
        pruned: with zeros, floating point: becomes the FP16 file.
        quantized: quantization-aware: becomes the int8 file.
        history: phases with their epochs, as in `history.json`.
    """

    float_model: Any
    pruned: Any
    quantized: Any
    history: dict[str, Any]


def architecture(config: TrainConfig) -> Architecture:
    """The graph that `config` asks for."""
    return Architecture(
        backbone=config.backbone,
        size_px=config.size_px,
        dropout=config.dropout,
        spatial_dropout=config.spatial_dropout,
        drop_connect=config.drop_connect,
        l2=config.l2,
        bn_momentum=config.bn_momentum,
        attention=config.attention,
        message_token=config.message_token,
    )


def claim_run(folder: Path, config: TrainConfig) -> None:
    """Make `folder` the run of `config`, or find that it is.

    Raises:
        ConfigError: it holds a run of another configuration.
    """
    path = folder / "config.toml"
    if path.exists():
        before = read_config(path, {})
        # None of these changes what is trained; what is exported is made anew at every start.
        free = (
            "workers",
            "allow_leaks",
            "allow_int8_loss",
            "max_int8_loss",
            "sensitivity",
            "calibrate_bias",
            "representative",
            "golden",
            "onnx",
        )
        differing = [
            f.name
            for f in dataclasses.fields(config)
            if f.name not in free and getattr(before, f.name) != getattr(config, f.name)
        ]
        if differing:
            raise ConfigError(
                f"{folder} holds a run of another configuration",
                expected="the configuration in its config.toml",
                came="other values of " + ", ".join(differing),
                do="choose another --name, or remove that folder to start anew",
            )
    write_atomically(path, config.to_toml())


def train(data: TrainingData, config: TrainConfig, *, folder: Path, say: Say) -> Trained:
    """Run the three phases, or what is left of them.

    Args:
        data: from `toolkit.training_data.read_data`.
        config: everything that decides the result.
        folder: of the run; phases keep their checkpoints in float/, prune/ and qat/ below it.
        say: told one line after each epoch.
    """
    seed_everything(config.seed)
    run = _Run(data, config, folder, say)
    float_model = run.float_phase()
    pruned = run.prune_phase(float_model)
    quantized = run.qat_phase(pruned, teacher=float_model)
    history = {"phases": run.phases}
    write_atomically(folder / "history.json", json.dumps(history, indent=1))
    return Trained(float_model=float_model, pruned=pruned, quantized=quantized, history=history)


def train_float_only(
    data: TrainingData, config: TrainConfig, *, folder: Path, say: Say, workers: Workers | None = None
) -> Any:
    """The floating-point phase alone, with other `workers` if there are; returns the float model. See `train`."""
    seed_everything(config.seed)
    run = _Run(data, config, folder, say, workers)
    model = run.float_phase()
    write_atomically(folder / "history.json", json.dumps({"phases": run.phases}, indent=1))
    return model


class _Run:
    """The phases of one run, with what they share."""

    def __init__(
        self, data: TrainingData, config: TrainConfig, folder: Path, say: Say, workers: Workers | None = None
    ) -> None:
        self.data, self.config, self.folder, self.say = data, config, folder, say
        self.workers = workers or alone()
        self.arch = architecture(config)
        self.phases: list[dict[str, Any]] = []
        self.augmenter = Augmenter(config.augment, config.augmentations())
        self.mixing = Mixing(
            mixup=config.mixup,
            mixup_alpha=config.mixup_alpha,
            cutmix=config.cutmix,
            cutmix_alpha=config.cutmix_alpha,
        )
        self.distillation = Distillation(config.distill_share, config.distill_temperature)
        if config.distill == "hard":
            self.distillation = Distillation(config.distill_share)
        self.averaging = Averaging(config.averaging, decay=config.ema_decay, last_epochs=config.swa_epochs)

    def stream(self, phase: int, *, shard: tuple[int, int] = (0, 1)) -> BatchStream:
        training = TrainingSet(
            pixels=self.data.train.pixels,
            labels=self.data.train_labels,
            tonal=self.data.tonal,
            input_scale=self.arch.input_scale,
            lungs=self.data.lungs,
            teacher=self.data.teacher,
            sources=np.array([row.source for row in self.data.train.rows]),
        )
        return BatchStream(
            training,
            batch_size=self.config.batch_size,
            augmenter=self.augmenter,
            seed=self.config.seed * 1000 + phase,
            workers=self.config.workers,
            weigh=self.config.class_weights,
            mixing=self.mixing,
            balance=self.config.balance_sources,
            shard=shard,
        )

    def fit(
        self,
        name: str,
        model: Any,
        stream: BatchStream,
        *,
        epochs: int,
        rate: float,
        teacher: Any = None,
        **options: Any,
    ) -> None:
        """Run one phase; with `teacher`, the float model, keep to it as `config.follow` asks."""
        warmup = round(stream.steps * self.config.warmup_epochs) if name == "float" else 0
        phase = Phase(
            name=name,
            epochs=epochs,
            schedule=Schedule(peak=rate, warmup_steps=warmup, total_steps=max(warmup + 1, epochs * stream.steps)),
            label_smoothing=self.config.label_smoothing,
            averaging=self.averaging,
            distillation=self.distillation if self.data.teacher is not None else None,
            following=self.config.follow if teacher is not None else 0.0,
            **options,
        )
        follows = phase.following > 0.0
        history = run_phase(
            phase,
            with_features(model) if follows else model,
            FollowingStream(stream, with_features(teacher)) if follows else stream,
            self.data.validation,
            input_scale=self.arch.input_scale,
            folder=self.folder / name,
            tensorboard=self.folder / "tensorboard",
            say=self.say,
            workers=self.workers,
        )
        self.phases.append({"name": name, "epochs": history})

    def float_phase(self) -> Any:
        with self.workers.scope():
            stream = self.stream(0, shard=(self.workers.index, self.workers.count))
            model = build_classifier(self.arch)
            load_initial_weights(
                model, self.config.weights, backbone=self.config.backbone, input_scale=self.arch.input_scale
            )
            self._unfreeze(model, stream)
            if self.config.float_epochs:
                self.fit("float", model, stream, epochs=self.config.float_epochs, rate=self.config.float_rate)
        if self.workers.count > 1:
            # What follows is for one process alone; reading shared weights takes all of them, here.
            shared, model = model, build_classifier(self.arch)
            copy_weights(shared, model)
        return self._settled("float", model, self.stream(0))

    def _unfreeze(self, model: Any, stream: BatchStream) -> None:
        """Train the top of the network first, group by group, each in a phase of its own."""
        for number, (prefix, epochs) in enumerate(self.config.unfreeze_groups(), start=1):
            freeze_below(model, prefix)
            self.fit(f"unfreeze-{number}", model, stream, epochs=epochs, rate=self.config.float_rate)
        model.trainable = True

    def prune_phase(self, float_model: Any) -> Any:
        stream = self.stream(1)
        plain = build_classifier(self.arch, trainable_drop=False)
        copy_weights(float_model, plain)
        steps = stream.steps * self.config.prune_epochs
        pruned = wrap_for_pruning(plain, sparsity=self.config.sparsity, steps=steps)
        self.fit(
            "prune",
            pruned,
            stream,
            epochs=self.config.prune_epochs,
            rate=self.config.prune_rate,
            teacher=float_model,
            callbacks=pruning_callbacks(),
        )
        stripped = strip_pruning(pruned, sparsity=self.config.sparsity)
        # Stripping shares its layers with the wrapped graph; a graph of its own has one path from input to output.
        fresh = build_classifier(self.arch, trainable_drop=False)
        copy_weights(stripped, fresh)
        return self._settled("prune", fresh, stream)

    def qat_phase(self, pruned: Any, *, teacher: Any) -> Any:
        with waiting("qat: quantizing the graph"):
            quantized = quantize_aware(pruned, input_scale=self.arch.input_scale)
        stream = self.stream(2)
        with waiting("qat: ranges of the activations"):
            calibrate_ranges(quantized, pruned, _inputs(stream, _CALIBRATION, _CALIBRATION_BATCHES))
        self.fit("qat", quantized, stream, epochs=self.config.qat_epochs, rate=self.config.qat_rate, teacher=teacher)
        if self.averaging.kind != "none":
            # The statistics belong to the last weights, not to their average.
            with waiting("qat: averaging batch statistics"):
                reestimate_batch_norm(quantized, _inputs(stream, _STATISTICS, _STATISTICS_BATCHES))
        return quantized

    def _settled(self, name: str, model: Any, stream: BatchStream) -> Any:
        """`model` with re-estimated batch-norm statistics, from disk when an earlier run had come this far."""
        path = self.folder / name / "final.weights.h5"
        if path.exists():
            require_unchanged(path)
            load_weights(model, path)
            return model
        with waiting(f"{name}: averaging batch statistics"):
            reestimate_batch_norm(model, _inputs(stream, _STATISTICS, _STATISTICS_BATCHES))
        with replacing(path) as part:
            model.save_weights(part)
            remember_content(path, of=part)
        return model


def _inputs(stream: BatchStream, epoch: int, batches: int) -> Iterator[Floats]:
    """The first `batches` inputs (B, S, S, 1) of an epoch, augmented but not mixed in pairs."""
    return (batch.x for batch in itertools.islice(stream.plain_epoch(epoch), batches))
