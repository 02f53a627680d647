"""One process of a training that several share: `one_of_workers.py FOLDER`, its TF_CONFIG in the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from toolkit.augment import Augmenter
from toolkit.average import Averaging
from toolkit.input_scale import INPUT_SCALE
from toolkit.phase import Phase, Schedule, Validation, run_phase
from toolkit.prune import seed_everything
from toolkit.stream import BatchStream, TrainingSet
from toolkit.tf import keras
from toolkit.workers import gather


def _model() -> keras.Model:
    """Without batch norm and dropout: shared or not, the gradients of a batch are the same."""
    grey = keras.Input((16, 16, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu")(grey)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(grey, keras.layers.Dense(1, activation="sigmoid")(x))


def main(folder: Path) -> None:
    workers = gather("multi-worker" if "TF_CONFIG" in os.environ else "none", batch_size=8)
    seed_everything(5)
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    pixels = (rng.integers(0, 150, (48, 16, 16)) + 60 * labels[:, None, None]).astype(np.uint8)
    data = TrainingSet(pixels=pixels, labels=labels, tonal=None, input_scale=INPUT_SCALE)
    shard = (workers.index, workers.count)
    stream = BatchStream(data, batch_size=8, augmenter=Augmenter("light"), seed=1, workers=0, weigh=True, shard=shard)
    with workers.scope():
        model = _model()
        history = run_phase(
            Phase("float", 3, Schedule(1e-2, 2, 18), averaging=Averaging("ema", decay=0.9)),
            model,
            stream,
            Validation(pixels, labels),
            input_scale=INPUT_SCALE,
            folder=folder,
            tensorboard=folder / "tensorboard",
            say=print,
            workers=workers,
        )
    losses = [epoch["loss"] for epoch in history]
    np.savez(folder / "end.npz", *model.get_weights(), losses=losses, workers=workers.count)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
