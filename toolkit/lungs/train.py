"""`train-lungs`: masks drawn by people to an int8 file that finds lungs. Goes on where it was cut off."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firmware_bridge.errors import AuditError, ConfigError, ModelError
from firmware_bridge.lungs import MASK_PX
from toolkit.batch_norm import reestimate_batch_norm
from toolkit.data.index import Index
from toolkit.data.patients import patient_overlaps
from toolkit.files import only_here, storing, write_atomically
from toolkit.input_scale import INPUT_SCALE
from toolkit.interrupt import remembering_interrupts
from toolkit.lungs.asset import FILE
from toolkit.lungs.augment import Sample, Sampler
from toolkit.lungs.data import Masked, read_masked, shrunk
from toolkit.lungs.export import kind_table, lungs_to_int8, mask_figures
from toolkit.lungs.network import build_lung_network
from toolkit.phase import Schedule, resumed
from toolkit.progress import progress, waiting
from toolkit.prune import seed_everything
from toolkit.tf import keras, tf

Say = Callable[[str], None]
Floats = npt.NDArray[np.float32]
_KIND_WEIGHT = 0.15  # the mask matters more than what the picture is called
_REPRESENTATIVE = 200
_STATISTICS_BATCHES = 40


@dataclass(frozen=True, slots=True)
class LungOptions:
    """What decides the result, besides the X-rays.

    Attributes:
        epochs: passes over the training split.
        batch_size: pictures a step.
        rate: learning rate after warm-up.
        seed: of initialization, order and augmentation.
        workers: threads that augment.
    """

    epochs: int = 12
    batch_size: int = 32
    rate: float = 3e-3
    seed: int = 1
    workers: int = 2


def train_lungs(index: Index, *, masks: Path, out: Path, options: LungOptions, say: Say) -> Path:
    """Train on the training split, choose nothing, measure the int8 file on validation and test.

    Started again on the same X-rays with the same options, it goes on where it was cut off.

    Args:
        index: with splits, patients apart.
        masks: folder of masks, see `read_masked`.
        out: folder of the run: checkpoints, `lungs.int8.tflite`, `lungs.json`.
        options: see `LungOptions`.
        say: told one line after each epoch.

    Returns:
        The int8 file.

    Raises:
        AuditError: a patient is in two splits.
        ConfigError: `out` holds a run of other X-rays or options, or another process is in it.
        InputError: a split has no X-ray with a mask.
        ModelError: training diverged, or the network cannot be converted.
        ResourceError: `out` cannot be written.
    """
    _refuse_shared_patients(index)
    with only_here(out, do="wait for that run, or choose another --out"), remembering_interrupts():
        _claim(out, index, options)
        return _train(index, masks=masks, out=out, options=options, say=say)


def _refuse_shared_patients(index: Index) -> None:
    shared = [overlap for overlap in patient_overlaps(index) if overlap.decides and overlap.patients]
    if shared:
        raise AuditError(
            "the splits leak: any figure from them would be worthless",
            expected="no patient in two splits",
            came="; ".join(f"{len(one.patients)} are in {' and '.join(one.splits)}" for one in shared),
            do="divide anew with: cxr-edge data split",
        )


def _claim(out: Path, index: Index, options: LungOptions) -> None:
    """Make `out` the run of these X-rays and options, or find that it is."""
    rows = repr(sorted((str(row.path), row.patient_id, row.split) for row in index))
    said = {name: value for name, value in asdict(options).items() if name != "workers"}
    said["index"] = hashlib.sha256(rows.encode("utf-8", "surrogateescape")).hexdigest()
    file = out / "run.json"
    try:
        before = dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else said
    except (OSError, ValueError, TypeError, RecursionError):
        before = {}
    if before != said:
        raise ConfigError(
            f"{out} holds a run of other X-rays or options",
            expected=f"what {file} says",
            came="other values of " + ", ".join(name for name in said if before.get(name) != said[name]),
            do="choose another --out, or remove that folder to start anew",
        )
    write_atomically(file, json.dumps(said, indent=1))


def _train(index: Index, *, masks: Path, out: Path, options: LungOptions, say: Say) -> Path:
    parts = {
        name: read_masked(index.select(split=name).rows, masks=masks, name=name)
        for name in ("train", "validation", "test")
    }
    for name, part in parts.items():
        say(f"{name}: {len(part.rows)} X-rays with masks, {part.left_out} left out")
    seed_everything(options.seed)
    model = build_lung_network()
    stream = _Stream(parts["train"], options)
    history = _fit(model, stream, options, out=out, say=say)
    with waiting("averaging batch statistics"):
        reestimate_batch_norm(model, (batch.x for batch in itertools.islice(stream.epoch(10**6), _STATISTICS_BATCHES)))
    representative = np.stack([s.pixels for s in stream.samples(range(_REPRESENTATIVE), epoch=10**6)])
    content = lungs_to_int8(model, representative)
    write_atomically(out / FILE, content)
    figures = {
        name: mask_figures(content, parts[name].pixels, shrunk(parts[name].masks, MASK_PX)).to_json()
        for name in ("validation", "test")
    }
    kinds = _kinds(content, parts["test"], options)
    said = {"file": FILE, "bytes": len(content), "masks": figures, "kinds_test": kinds, "epochs": history}
    write_atomically(out / "lungs.json", json.dumps(said, indent=1))
    for name, row in figures.items():
        say(f"{name}: Dice {row['dice']:.4f}, IoU {row['iou']:.4f}, no plausible lungs in {row['implausible']:.2%}")
    return out / FILE


def _kinds(content: bytes, part: Masked, options: LungOptions) -> dict[str, dict[str, float]]:
    """Kinds of augmented pictures of held-out patients, three of each X-ray."""
    held = _Stream(part, options)
    rows = [i % len(part.rows) for i in range(3 * len(part.rows))]
    samples = [s for s in held.samples(rows, epoch=1) if s.kind_counts]
    return kind_table(content, np.stack([s.pixels for s in samples]), np.array([s.kind for s in samples]))


@dataclass(frozen=True, slots=True)
class _Batch:
    x: Floats  # (B, 128, 128, 1), normalised
    mask: Floats  # (B, 128, 128, 1), 0 or 1
    kind: npt.NDArray[np.int64]  # (B,)
    mask_weight: Floats  # (B,)
    kind_weight: Floats  # (B,)


class _Stream:
    """Batches of augmented pictures, epoch by epoch, made a few steps ahead by threads."""

    def __init__(self, data: Masked, options: LungOptions) -> None:
        self._data, self._options, self._sampler = data, options, Sampler()
        self._size = min(options.batch_size, len(data.rows))

    @property
    def steps(self) -> int:
        return len(self._data.rows) // self._size

    def samples(self, rows: Any, *, epoch: int) -> Iterator[Sample]:
        """Augmented pictures of these rows, in their order."""
        for position, row in enumerate(rows):
            yield self._one(int(row) % len(self._data.rows), epoch * 10**6 + position)

    def epoch(self, number: int) -> Iterator[_Batch]:
        order = np.random.default_rng((self._options.seed, number)).permutation(len(self._data.rows))
        with ThreadPoolExecutor(max(1, self._options.workers)) as pool:
            ahead: deque[list[Future[Sample]]] = deque()
            for step in range(self.steps):
                rows = order[step * self._size : (step + 1) * self._size]
                ahead.append([pool.submit(self._one, int(i), number) for i in rows])
                if len(ahead) >= 6:
                    yield _batch([f.result() for f in ahead.popleft()])
            while ahead:
                yield _batch([f.result() for f in ahead.popleft()])

    def _one(self, row: int, epoch: int) -> Sample:
        seed = int(np.random.SeedSequence((self._options.seed, epoch, row)).generate_state(1)[0])
        return self._sampler(self._data.pixels[row], self._data.masks[row], seed=seed)


def _batch(samples: list[Sample]) -> _Batch:
    grey = np.stack([s.pixels for s in samples])[..., None].astype(np.float32)
    return _Batch(
        x=np.asarray(INPUT_SCALE.normalise(grey), np.float32),
        mask=(np.stack([s.mask for s in samples])[..., None] > 127).astype(np.float32),
        kind=np.array([s.kind for s in samples], np.int64),
        mask_weight=np.array([s.mask_counts for s in samples], np.float32),
        kind_weight=np.array([s.kind_counts for s in samples], np.float32),
    )


def mask_loss(true: Any, found: Any) -> Any:
    """Cross entropy and soft Dice (Milletari 2016) of the enlarged mask.

    Args:
        true: (B, 128, 128, 1) float32, 0 or 1.
        found: (B, 64, 64, 1) float32 in [0, 1].

    Returns:
        (B,) float32.
    """
    found = tf.image.resize(found, (MASK_PX, MASK_PX))  # bilinear, as `LungFinder` does it
    entropy = tf.reduce_mean(keras.losses.binary_crossentropy(true, found), axis=(1, 2))
    axes = (1, 2, 3)
    both = tf.reduce_sum(true * found, axes)
    # The constant lets a picture without lungs reach 0 with an empty mask.
    dice = (2 * both + 50.0) / (tf.reduce_sum(true, axes) + tf.reduce_sum(found, axes) + 50.0)
    return entropy + 1 - dice


def _fit(model: Any, stream: _Stream, options: LungOptions, *, out: Path, say: Say) -> list[dict[str, float]]:
    total = options.epochs * stream.steps
    schedule = Schedule(peak=options.rate, warmup_steps=min(100, total // 10), total_steps=max(2, total))
    # What is kept is the average over the last few hundred steps (Polyak & Juditsky 1992).
    optimizer = keras.optimizers.Adam(schedule(0), use_ema=True, ema_momentum=max(0.0, min(0.997, 1 - 10 / total)))
    optimizer.build(model.trainable_variables)
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def learn(x: Any, mask: Any, kind: Any, mask_weight: Any, kind_weight: Any) -> Any:
        with tf.GradientTape() as tape:
            found, logits = model(x, training=True)
            of_mask = tf.reduce_mean(mask_loss(mask, found) * mask_weight)
            of_kind = tf.reduce_mean(entropy(kind, logits) * kind_weight)
            loss = of_mask + _KIND_WEIGHT * of_kind
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return tf.stack([of_mask, of_kind])

    manager, history = resumed(tf.train.Checkpoint(model=model, optimizer=optimizer), out)
    for number in range(len(history), options.epochs):
        losses = []
        batches = stream.epoch(number)
        for index in progress(range(stream.steps), f"lungs {number + 1}/{options.epochs}"):
            optimizer.learning_rate.assign(schedule(number * stream.steps + index))
            batch = next(batches)
            losses.append(learn(batch.x, batch.mask, batch.kind, batch.mask_weight, batch.kind_weight).numpy())
        of_mask, of_kind = (float(v) for v in np.mean(losses, axis=0))
        if not np.isfinite(of_mask + of_kind):
            raise ModelError(
                "training of the lung network diverged",
                expected="a loss that is a number",
                came=f"{of_mask}, {of_kind}",
                do="lower --rate, in another --out folder",
            )
        history.append({"epoch": number + 1, "mask_loss": of_mask, "kind_loss": of_kind})
        write_atomically(out / "history.json", json.dumps(history, indent=1))
        with storing(out / "checkpoints"):
            manager.save(checkpoint_number=number + 1)
        say(f"lungs {number + 1}/{options.epochs}: mask loss {of_mask:.4f}, kind loss {of_kind:.4f}")
    optimizer.finalize_variable_values(model.trainable_variables)
    return history
