"""Averaged weights: the mean they promise, the same after an interruption, and no zero lost to an average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.augment import Augmenter
from toolkit.average import Averaging
from toolkit.backbones.kinds import BACKBONES, EfficientNet
from toolkit.input_scale import INPUT_SCALE
from toolkit.model import Architecture, build_classifier
from toolkit.phase import Phase, Schedule, Validation, run_phase
from toolkit.prune import is_pruned, pruning_callbacks, seed_everything, strip_pruning, wrap_for_pruning
from toolkit.stream import BatchStream, TrainingSet

TINY = EfficientNet("tiny", "swish", False, blocks=(), stem_channels=4, feature_channels=8)
ARCH = Architecture(backbone="tiny", size_px=32, dropout=0.0, drop_connect=0.0)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "tiny", TINY)


def _built() -> Any:
    seed_everything(3)
    return build_classifier(ARCH, trainable_drop=False)


class _Cut(Exception):
    """A run that is cut off."""


def _fit(model: Any, folder: Path, averaging: Averaging, *, epochs: int, cut: str = "-", **options: Any) -> None:
    def say(line: str) -> None:
        if line.startswith(cut):
            raise _Cut

    labels = (np.arange(32) % 2).astype(np.int64)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 32), np.uint8)
    data = TrainingSet(pixels=pixels, labels=labels, tonal=None, input_scale=INPUT_SCALE)
    stream = BatchStream(data, batch_size=8, augmenter=Augmenter("none"), seed=1, workers=0, weigh=False)
    schedule = Schedule(3e-3, warmup_steps=0, total_steps=3 * stream.steps)
    run_phase(
        Phase("float", epochs, schedule, averaging=averaging, **options),
        model,
        stream,
        Validation(pixels, labels),
        input_scale=INPUT_SCALE,
        folder=folder,
        tensorboard=folder / "tensorboard",
        say=say,
    )


def _weights(model: Any) -> list[Any]:
    return [w.copy() for w in model.get_weights()]


class _Recorder:
    """The weights after every step, by wrapping the model's own training step."""

    def __init__(self, model: Any) -> None:
        self.steps: list[list[Any]] = []
        step = model.train_on_batch

        def recording(*arguments: Any, **options: Any) -> Any:
            loss = step(*arguments, **options)
            self.steps.append(_weights(model))
            return loss

        model.train_on_batch = recording


def test_ema_is_the_exponential_mean_of_the_weights_after_each_step(tmp_path: Path) -> None:
    model = _built()
    expected = _weights(model)
    recorder = _Recorder(model)
    _fit(model, tmp_path, Averaging("ema", decay=0.6), epochs=2)
    assert len(recorder.steps) == 8
    for done, weights in enumerate(recorder.steps):
        keep = min(0.6, (1 + done) / (10 + done))
        expected = [keep * mean + (1 - keep) * now for mean, now in zip(expected, weights, strict=True)]
    for one, other in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_swa_is_the_plain_mean_of_the_last_epochs(tmp_path: Path) -> None:
    model = _built()
    recorder = _Recorder(model)
    _fit(model, tmp_path, Averaging("swa", last_epochs=2), epochs=3)
    for one, second, third in zip(model.get_weights(), recorder.steps[7], recorder.steps[11], strict=True):
        np.testing.assert_allclose(one, (second + third) / 2, atol=1e-6)


def test_an_interruption_changes_nothing(tmp_path: Path) -> None:
    averaging = Averaging("swa", last_epochs=3)
    whole, resumed, again = _built(), _built(), _built()
    _fit(whole, tmp_path / "a", averaging, epochs=3)
    with pytest.raises(_Cut):
        _fit(_built(), tmp_path / "b", averaging, epochs=3, cut="float 2/3")
    _fit(resumed, tmp_path / "b", averaging, epochs=3)
    _fit(again, tmp_path / "b", averaging, epochs=3)  # done before: the average is put in all the same
    for model in (resumed, again):
        for one, other in zip(whole.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_pruned_weights_stay_zero_in_the_average(tmp_path: Path) -> None:
    pruned = wrap_for_pruning(_built(), sparsity=0.5, steps=12)
    _fit(pruned, tmp_path, Averaging("ema", decay=0.999), epochs=3, callbacks=pruning_callbacks())
    masks = {
        wrapper.layer.name: wrapper.pruning_vars[0][1].numpy()
        for wrapper in pruned.layers
        if hasattr(wrapper, "pruning_vars")
    }
    plain = strip_pruning(pruned, sparsity=0.5)
    kernels = {layer.name: layer.get_weights()[0] for layer in plain.layers if is_pruned(layer)}
    assert kernels.keys() == masks.keys()
    for name, mask in masks.items():
        assert np.mean(mask == 0) >= 0.5, name
        assert (kernels[name][mask == 0] == 0).all(), name
