"""One phase of training: a loop over epochs that is checkpointed after each, and goes on where it was cut off."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.metrics import auroc
from firmware_bridge.errors import ModelError
from toolkit.average import NO_AVERAGING, Averaging, WeightAverage
from toolkit.files import storing, write_atomically
from toolkit.follow import FollowingLoss, FollowingStream
from toolkit.input_scale import InputScale
from toolkit.losses import Distillation, phase_loss
from toolkit.progress import progress, waiting
from toolkit.stream import BatchStream
from toolkit.tf import keras, tf
from toolkit.workers import Stepper, Workers, alone

Floats = npt.NDArray[np.float32]
Epoch = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Validation:
    """X-rays that are only looked at.

    Attributes:
        pixels: (N, S, S) uint8, fully preprocessed.
        labels: (N,) int64, 0 or 1.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up, then half a cosine down to a hundredth of the peak (Loshchilov & Hutter 2017, eq. 5).

    Attributes:
        peak: the learning rate after warm-up.
        warmup_steps: 0 or more.
        total_steps: above `warmup_steps`.
    """

    peak: float
    warmup_steps: int
    total_steps: int

    def __call__(self, step: int) -> float:
        """The learning rate of `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        share = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


@dataclass(frozen=True, slots=True)
class Phase:
    """What one phase is to do.

    Attributes:
        name: "float", "prune" or "qat"; names its folder.
        epochs: in all, those before an interruption included.
        schedule: learning rate by step.
        label_smoothing: 0 to below 1.
        callbacks: Keras callbacks that the phase needs (pruning's step counter).
        averaging: what the weights at the end are.
        distillation: how much the teacher counts whose answers the batches bring; None without one.
        following: share of the loss that keeps to the float model, 0 to 1; above 0 the model is one of
            `follow.with_features` and the stream a `follow.FollowingStream`.
    """

    name: str
    epochs: int
    schedule: Schedule
    label_smoothing: float = 0.0
    callbacks: Sequence[Any] = ()
    averaging: Averaging = NO_AVERAGING
    distillation: Distillation | None = None
    following: float = 0.0

    def loss(self) -> Any:
        """The Keras loss."""
        labels = phase_loss(label_smoothing=self.label_smoothing, distillation=self.distillation)
        if not self.following:
            return labels
        return FollowingLoss(labels, share=self.following, columns=2 if self.distillation else 1)


def predict(model: Any, pixels: npt.NDArray[np.uint8], scale: InputScale, *, batch: int = 64) -> Floats:
    """Probabilities (N,) float32 of grey X-rays (N, S, S) uint8."""
    parts: list[Floats] = []
    for start in range(0, len(pixels), batch):
        part = pixels[start : start + batch]
        # One shape, one graph: Keras keeps it with the model, and tracing takes seconds. The surplus is cut off below.
        full = np.resize(part, (batch, *part.shape[1:])) if start else part
        x = np.asarray(scale.normalise(full[..., None].astype(np.float32)), np.float32)
        parts.append(model.predict_on_batch(x)[: len(part), 0])
    return np.concatenate(parts).astype(np.float32)


def run_phase(
    phase: Phase,
    model: Any,
    stream: BatchStream | FollowingStream,
    validation: Validation,
    *,
    input_scale: InputScale,
    folder: Path,
    tensorboard: Path,
    say: Callable[[str], None],
    workers: Workers | None = None,
) -> list[Epoch]:
    """Train `model` in place through the epochs that are not done yet; at the end it holds the averaged weights.

    After each epoch the model, the optimizer, the average and the history are on disk; a kill costs at most the epoch
    it hit. The figures of an epoch are those of its last weights. With other `workers`, in their scope.

    Returns:
        One dict an epoch: epoch, loss, val_loss, val_auroc, seconds, step_ms (without waiting for input),
        input_wait_share, learning_rate.

    Raises:
        ModelError: the loss is no number any more, or a checkpoint cannot be read.
        ResourceError: the disk is full; the epochs before stand.
    """
    optimizer = keras.optimizers.Adam(phase.schedule(0))
    model.compile(optimizer, phase.loss())
    # Slots must exist before a restore, or the optimizer would start cold after an interruption.
    optimizer.build(model.trainable_variables)
    average = phase.averaging.of(model)
    parts = {"average": average} if phase.averaging.kind != "none" else {}
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, **parts)
    manager, history = resumed(checkpoint, folder)
    _sweep(folder / "checkpoints", manager.latest_checkpoint)
    if len(history) >= phase.epochs:
        say(f"{phase.name}: done before, {len(history)} epochs")
        average.apply(model)
        return history[: phase.epochs]
    if history:
        say(f"{phase.name}: going on after epoch {len(history)}")
    callbacks = keras.callbacks.CallbackList(list(phase.callbacks), model=model)
    callbacks.on_train_begin()
    step = (workers or alone()).stepper(model)
    with storing(tensorboard):
        writer = tf.summary.create_file_writer(str(tensorboard / phase.name))
    for number in range(len(history), phase.epochs):
        epoch = _train_epoch(phase, model, step, stream, number=number, callbacks=callbacks, average=average)
        average.after_epoch(number, epochs=phase.epochs)
        history.append(epoch | _validated(model, validation, input_scale))
        # The history first: a kill between the two leaves an entry too many, which the next start drops.
        write_atomically(folder / "history.json", json.dumps(history, indent=1))
        with storing(folder / "checkpoints"):
            manager.save(checkpoint_number=number + 1)
        _plot(writer, phase.name, history[-1])
        say(_line(phase, history[-1]))
    callbacks.on_train_end()
    average.apply(model)
    return history


def _validated(model: Any, validation: Validation, scale: InputScale) -> Epoch:
    probabilities = predict(model, validation.pixels, scale)
    return {
        "val_loss": _log_loss(validation.labels, probabilities),
        "val_auroc": float(auroc(validation.labels, probabilities)),
    }


def _line(phase: Phase, epoch: Epoch) -> str:
    return (
        f"{phase.name} {epoch['epoch']}/{phase.epochs}: loss {epoch['loss']:.4f}, "
        f"validation loss {epoch['val_loss']:.4f}, AUROC {epoch['val_auroc']:.4f}, "
        f"{epoch['seconds']:.0f} s, waiting for input {epoch['input_wait_share']:.1%}"
    )


def _plot(writer: Any, name: str, epoch: Epoch) -> None:
    with writer.as_default(step=epoch["epoch"]):
        for key in ("loss", "val_loss", "val_auroc", "learning_rate", "input_wait_share"):
            tf.summary.scalar(f"{name}/{key}", epoch[key])
    writer.flush()


def resumed(checkpoint: Any, folder: Path) -> tuple[Any, list[Epoch]]:
    """What saves the checkpoints of `folder`, and the history up to the last, which is in the model then.

    Args:
        checkpoint: what is saved in `folder`/checkpoints, and restored from there.
        folder: with history.json, an object with "epoch" for each.

    Returns:
        The `tf.train.CheckpointManager`, and the history, empty where there is no checkpoint.

    Raises:
        ModelError: one of the two cannot be read, or they do not belong together.
    """
    try:
        manager = tf.train.CheckpointManager(checkpoint, str(folder / "checkpoints"), max_to_keep=1)
        if manager.latest_checkpoint is None:
            return manager, []
        done = int(Path(manager.latest_checkpoint).name.removeprefix("ckpt-"))
        history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
        if not isinstance(history, list) or [_number_of(epoch) for epoch in history[:done]] != [*range(1, done + 1)]:
            raise ValueError(f"a checkpoint of {done} epochs, and a history.json without all of them")
        checkpoint.restore(manager.latest_checkpoint).assert_existing_objects_matched()
    # TensorFlow's reader and its parser of the state file raise nearly anything on damaged bytes.
    except Exception as error:
        raise ModelError(
            f"the checkpoint in {folder} cannot be read",
            expected="checkpoints/ and history.json as they were written",
            came=next(iter(str(error).splitlines()), type(error).__name__),
            do=f"remove {folder} to train this phase again",
        ) from error
    return manager, history[:done]


def _number_of(epoch: object) -> object:
    return epoch.get("epoch") if isinstance(epoch, dict) else None


def _sweep(folder: Path, latest: str | None) -> None:
    """Remove what saves that were cut off left behind: each is as large as a checkpoint."""
    keep = f"{Path(latest).name}." if latest else "nothing"
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "checkpoint" and not path.name.startswith(keep):
            path.unlink()


def _train_epoch(
    phase: Phase,
    model: Any,
    train: Stepper,
    stream: BatchStream | FollowingStream,
    *,
    number: int,
    callbacks: Any,
    average: WeightAverage,
) -> Epoch:
    name = f"{phase.name} {number + 1}/{phase.epochs}"
    callbacks.on_epoch_begin(number)
    model.reset_metrics()
    start_s = time.perf_counter()
    batches = stream.epoch(number)
    loss = rate = 0.0
    took_s: list[float] = []
    waited_s: list[float] = []

    def step(index: int) -> None:
        nonlocal loss, rate
        begun_s = time.perf_counter()
        batch = next(batches)
        waited_s.append(time.perf_counter() - begun_s)
        rate = phase.schedule(number * stream.steps + index)
        model.optimizer.learning_rate.assign(rate)
        callbacks.on_train_batch_begin(index)
        loss = train(batch)
        callbacks.on_train_batch_end(index)
        average.after_step()
        took_s.append(time.perf_counter() - begun_s)

    # Keras traces the graph in the first step, which takes much longer than all others: it is shown and timed apart.
    untimed = 0 if train.traced else 1
    if untimed:
        with waiting(f"{name}: building the graph"):
            step(0)
    for index in progress(range(untimed, stream.steps), name):
        step(index)
    callbacks.on_epoch_end(number)
    _require_finite(loss, phase, name)
    timed = slice(untimed if len(took_s) > untimed else 0, None)
    return {
        "epoch": number + 1,
        "loss": loss,
        "seconds": round(time.perf_counter() - start_s, 2),
        "step_ms": round(1000 * float(np.mean(took_s[timed]) - np.mean(waited_s[timed])), 2),
        "input_wait_share": round(sum(waited_s[timed]) / sum(took_s[timed]), 4),
        "learning_rate": rate,
    }


def _require_finite(loss: float, phase: Phase, name: str) -> None:
    if not math.isfinite(loss):
        raise ModelError(
            f"training diverged in {name}",
            expected="a loss that is a number",
            came=str(loss),
            # Phases of progressive unfreezing train at the floating-point phase's rate.
            do=f"lower --{phase.name.replace('unfreeze', 'float').split('-')[0]}-rate, under another --name",
        )


def _log_loss(labels: npt.NDArray[np.int64], probabilities: Floats) -> float:
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(labels == 1, np.log(p), np.log(1 - p))))
