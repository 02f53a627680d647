"""Training batches: augmented in threads, ahead of the training step, the same for the same seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from firmware_bridge.preprocess import Preprocessing
from toolkit.augment import Augmenter
from toolkit.input_scale import InputScale
from toolkit.mix import Mixing

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
_AHEAD = 3  # batches in work or waiting: enough to hide an uneven batch, little memory


@dataclass(frozen=True, slots=True)
class Batch:
    """One training step's worth.

    Attributes:
        x: (B, S, S, 1) float32, normalised.
        y: (B, 1) float32, 0 or 1; between them where pairs are mixed. With a teacher (B, 2): its answer beside.
        weights: (B,) float32, mean about 1.
    """

    x: Floats
    y: Floats
    weights: Floats


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What a stream draws from.

    Attributes:
        pixels: (N, S, S) uint8, after the geometric steps of the preprocessing and before the tonal ones (CLAHE), so
            that augmentation changes the exposure that the device's CLAHE will meet.
        labels: (N,) int64, 0 or 1.
        tonal: the steps that are still to come.
        input_scale: of the network.
        teacher: (N,) float32, 0 to 1, what a teacher says; None without one.
        lungs: (N, S, S) uint8, 0 outside the lungs, in the geometry of `pixels`; None where they are not known.
        sources: (N,) where each X-ray comes from; None where that plays no part.
    """

    pixels: Grey
    labels: npt.NDArray[np.int64]
    tonal: Preprocessing | None
    input_scale: InputScale
    lungs: Grey | None = None
    teacher: Floats | None = None
    sources: npt.NDArray[np.str_] | None = None


def class_weights(labels: npt.NDArray[np.int64], sources: npt.NDArray[np.str_] | None = None) -> Floats:
    """Weight of each X-ray, (N,) float32, so that both classes weigh the same in sum and the mean is 1.

    With `sources` that holds within each of them: where one source is mostly sick and another mostly well, what tells
    the sources apart would otherwise tell the label.
    """
    weights = np.ones(len(labels), np.float32)
    groups = np.zeros(len(labels), np.int64) if sources is None else np.unique(sources, return_inverse=True)[1]
    for group in range(int(groups.max()) + 1):
        inside = groups == group
        share = np.bincount(labels[inside], minlength=2) / inside.sum()
        # A source of one class has nothing to weigh against.
        if share.min() > 0 or sources is None:
            weights[inside] = (0.5 / np.maximum(share, 1e-9))[labels[inside]]
    return weights


def draw_shares(sources: npt.NDArray[np.str_], *, balance: float) -> Floats:
    """How often each X-ray is drawn, (N,) float64, sum 1: a source of n has a share like n^(1 - `balance`).

    0 draws all X-rays alike, 1 all sources (Idrissi 2022, "Simple data balancing", sampling by group).
    """
    _, groups, counts = np.unique(sources, return_inverse=True, return_counts=True)
    of_source = counts ** (1.0 - balance) / np.sum(counts ** (1.0 - balance))
    out: Floats = (of_source / counts)[groups]
    return out


class BatchStream:
    """Batches of one training set, epoch by epoch."""

    def __init__(
        self,
        data: TrainingSet,
        *,
        batch_size: int,
        augmenter: Augmenter,
        seed: int,
        workers: int,
        weigh: bool,
        mixing: Mixing | None = None,
        balance: float = 0.0,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Prepare; `workers` threads augment, 0 augments in the caller's thread; `balance` as in `draw_shares`.

        `shard` (k, n) leaves of each batch every n-th X-ray from the k-th on: n streams together give the whole.
        """
        self._data = data
        self._augmenter = augmenter
        self._seed = seed
        self._workers = workers
        self._mixing = mixing or Mixing()
        self._shard = shard
        # A training set below one batch is one smaller batch.
        self._batch_size = min(batch_size, len(data.labels))
        self._shares = draw_shares(data.sources, balance=balance) if balance and data.sources is not None else None
        sources = None if self._shares is None else data.sources
        self._weights = class_weights(data.labels, sources) if weigh else np.ones(len(data.labels), np.float32)

    @property
    def steps(self) -> int:
        """Batches in one epoch; a last, smaller batch is dropped (batch normalisation wants full ones)."""
        return len(self._data.labels) // self._batch_size

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number`, 0 or more. The order depends on the seed and the number alone."""
        for index, batch in enumerate(self.plain_epoch(number)):
            x, y, weights = self._mixing.apply(batch.x, batch.y, batch.weights, seed=(self._seed, number, index))
            yield Batch(x=x, y=y, weights=weights)

    def plain_epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number`, augmented but never mixed in pairs: what the device's inputs look like."""
        order, seeds = self._order(number)
        first, step = self._shard
        chunks = [slice(i * self._batch_size + first, (i + 1) * self._batch_size, step) for i in range(self.steps)]
        if not self._workers:
            for chunk in chunks:
                drawn = zip(order[chunk], seeds[chunk], strict=True)
                yield self._batch(order[chunk], [self._one(int(row), seed) for row, seed in drawn])
            return
        with ThreadPoolExecutor(self._workers) as pool:
            waiting: deque[tuple[npt.NDArray[np.int64], list[Future[Grey]]]] = deque()
            for chunk in chunks:
                drawn = zip(order[chunk], seeds[chunk], strict=True)
                waiting.append((order[chunk], [pool.submit(self._one, int(row), seed) for row, seed in drawn]))
                if len(waiting) >= _AHEAD:
                    ready, futures = waiting.popleft()
                    yield self._batch(ready, [future.result() for future in futures])
            while waiting:
                ready, futures = waiting.popleft()
                yield self._batch(ready, [future.result() for future in futures])

    def _order(self, number: int) -> tuple[npt.NDArray[np.int64], list[tuple[int, ...]]]:
        """The rows of epoch `number` in their order, and what seeds the augmentation of each."""
        rng, count = np.random.default_rng((self._seed, number)), len(self._data.labels)
        # Any mixing of these numbers will do, as long as no two X-rays of an epoch share a seed.
        if self._shares is None:
            order = rng.permutation(count)
            return order, [(self._seed, number, int(row)) for row in order]
        order = rng.choice(count, size=count, p=self._shares)
        return order, [(self._seed, number, int(row), place) for place, row in enumerate(order)]

    def _one(self, row: int, entropy: tuple[int, ...]) -> Grey:
        seed, other = (int(n) for n in np.random.SeedSequence(entropy).generate_state(2))
        lungs, partner = None, None
        if self._data.lungs is not None and self._augmenter.needs_lungs:
            lungs, partner = self._data.lungs[row], self._data.pixels[other % len(self._data.labels)]
        pixels = self._augmenter(self._data.pixels[row], seed=seed, lungs=lungs, other=partner)
        return self._data.tonal.apply(pixels) if self._data.tonal else pixels

    def _batch(self, rows: npt.NDArray[np.int64], images: list[Grey]) -> Batch:
        y = self._data.labels[rows].astype(np.float32)[:, None]
        if self._data.teacher is not None:
            y = np.concatenate([y, self._data.teacher[rows][:, None]], axis=1)
        grey = np.stack(images)[..., None].astype(np.float32)  # (B, S, S, 1), 0 to 255
        return Batch(
            x=np.asarray(self._data.input_scale.normalise(grey), np.float32),
            y=y,
            weights=self._weights[rows],
        )
