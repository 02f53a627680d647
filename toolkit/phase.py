"""One phase of training: a loop over epochs that is checkpointed after each, and goes on where it was cut off."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.metrics import auroc
from toolkit.files import write_atomically
from toolkit.model import InputScale
from toolkit.progress import progress
from toolkit.stream import BatchStream
from toolkit.tf import keras, tf

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
    """

    name: str
    epochs: int
    schedule: Schedule
    label_smoothing: float = 0.0
    callbacks: Sequence[Any] = ()


def predict(model: Any, pixels: npt.NDArray[np.uint8], scale: InputScale, *, batch: int = 64) -> Floats:
    """Probabilities (N,) float32 of grey X-rays (N, S, S) uint8."""
    call = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
    parts = [
        call(tf.constant(scale.normalise(pixels[i : i + batch, :, :, None].astype(np.float32)))).numpy()[:, 0]
        for i in range(0, len(pixels), batch)
    ]
    return np.concatenate(parts).astype(np.float32)


def run_phase(
    phase: Phase,
    model: Any,
    stream: BatchStream,
    validation: Validation,
    *,
    input_scale: InputScale,
    folder: Path,
    tensorboard: Path,
    say: Callable[[str], None],
) -> list[Epoch]:
    """Train `model` in place through the epochs that are not done yet.

    After each epoch the model, the optimizer and the history are on disk; a kill costs at most the epoch it hit.

    Returns:
        One dict an epoch: epoch, loss, val_loss, val_auroc, seconds, step_ms, input_wait_share, learning_rate.
    """
    optimizer = keras.optimizers.Adam(phase.schedule(0))
    model.compile(optimizer, keras.losses.BinaryCrossentropy(label_smoothing=phase.label_smoothing))
    # Slots must exist before a restore, or the optimizer would start cold after an interruption.
    optimizer.build(model.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    manager = tf.train.CheckpointManager(checkpoint, str(folder / "checkpoints"), max_to_keep=1)
    history = _resume(checkpoint, manager, folder)
    if len(history) >= phase.epochs:
        say(f"{phase.name}: done before, {len(history)} epochs")
        return history[: phase.epochs]
    if history:
        say(f"{phase.name}: going on after epoch {len(history)}")
    callbacks = keras.callbacks.CallbackList(list(phase.callbacks), model=model)
    callbacks.on_train_begin()
    writer = tf.summary.create_file_writer(str(tensorboard / phase.name))
    for number in range(len(history), phase.epochs):
        epoch = _train_epoch(phase, model, stream, number=number, callbacks=callbacks)
        probabilities = predict(model, validation.pixels, input_scale)
        epoch["val_loss"] = _log_loss(validation.labels, probabilities)
        epoch["val_auroc"] = float(auroc(validation.labels, probabilities))
        history.append(epoch)
        manager.save(checkpoint_number=number + 1)
        write_atomically(folder / "history.json", json.dumps(history, indent=1))
        with writer.as_default(step=number + 1):
            for key in ("loss", "val_loss", "val_auroc", "learning_rate", "input_wait_share"):
                tf.summary.scalar(f"{phase.name}/{key}", epoch[key])
        writer.flush()
        say(
            f"{phase.name} {number + 1}/{phase.epochs}: loss {epoch['loss']:.4f}, "
            f"validation loss {epoch['val_loss']:.4f}, AUROC {epoch['val_auroc']:.4f}, "
            f"{epoch['seconds']:.0f} s, waiting for input {epoch['input_wait_share']:.1%}"
        )
    callbacks.on_train_end()
    return history


def _resume(checkpoint: Any, manager: Any, folder: Path) -> list[Epoch]:
    """The history up to the last checkpoint, restored into the model; empty where there is none."""
    if manager.latest_checkpoint is None:
        return []
    done = int(manager.latest_checkpoint.rsplit("-", 1)[1])
    history: list[Epoch] = (
        json.loads((folder / "history.json").read_text()) if (folder / "history.json").exists() else []
    )
    if len(history) < done:
        # Cut off between checkpoint and history: the epoch's figures are lost, its training isn't.
        history += [dict(history[-1], epoch=done)] if history else []
    if len(history) < done:
        return []
    checkpoint.restore(manager.latest_checkpoint).expect_partial()
    return history[:done]


def _train_epoch(phase: Phase, model: Any, stream: BatchStream, *, number: int, callbacks: Any) -> Epoch:
    callbacks.on_epoch_begin(number)
    model.reset_metrics()
    start_s = time.perf_counter()
    waited_s = 0.0
    loss = rate = 0.0
    batches = stream.epoch(number)
    for index in progress(range(stream.steps), f"{phase.name} {number + 1}/{phase.epochs}"):
        wait_s = time.perf_counter()
        batch = next(batches)
        waited_s += time.perf_counter() - wait_s
        rate = phase.schedule(number * stream.steps + index)
        model.optimizer.learning_rate.assign(rate)
        callbacks.on_train_batch_begin(index)
        loss = float(model.train_on_batch(batch.x, batch.y, sample_weight=batch.weights, reset_metrics=False))
        callbacks.on_train_batch_end(index)
    callbacks.on_epoch_end(number)
    seconds = time.perf_counter() - start_s
    return {
        "epoch": number + 1,
        "loss": loss,
        "seconds": round(seconds, 2),
        "step_ms": round(1000 * (seconds - waited_s) / stream.steps, 2),
        "input_wait_share": round(waited_s / seconds, 4),
        "learning_rate": rate,
    }


def _log_loss(labels: npt.NDArray[np.int64], probabilities: Floats) -> float:
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(labels == 1, np.log(p), np.log(1 - p))))


def reestimate_batch_norm(model: Any, stream: BatchStream, *, batches: int = 30) -> None:
    """Set every batch normalisation's moving mean and variance to the average over `batches` batches, in place.

    After a phase the moving statistics still remember earlier weights; after pruning, weights that are gone.
    """
    layers = [x for x in model.submodules if isinstance(x, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    call = tf.function(lambda x, m: _with_momentum(model, layers, x, m), reduce_retracing=True)
    source = stream.epoch(10**6)  # an order that no training epoch has
    for done in range(min(batches, stream.steps)):
        # momentum n/(n+1) makes the moving value the plain mean of n+1 batches.
        call(tf.constant(next(source).x), tf.constant(done / (done + 1), tf.float32))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def _with_momentum(model: Any, layers: list[Any], x: Any, momentum: Any) -> Any:
    for layer in layers:
        layer.momentum = momentum
    return model(x, training=True)
