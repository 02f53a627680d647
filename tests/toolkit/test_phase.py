"""Phases on a network of a few thousand weights: pruning keeps its word, zeros stay, interruptions change nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firmware_bridge.errors import ExportGateError, ModelError, ResourceError
from toolkit.augment import Augmenter
from toolkit.backbones.kinds import BACKBONES, EfficientNet
from toolkit.batch_norm import reestimate_batch_norm
from toolkit.config import TrainConfig
from toolkit.export import to_int8
from toolkit.export_run import _gate
from toolkit.input_scale import INPUT_SCALE
from toolkit.inspect_tflite import inspect_tflite
from toolkit.model import Architecture, build_classifier
from toolkit.phase import Phase, Schedule, Validation, predict, run_phase
from toolkit.prune import is_pruned, pruning_callbacks, seed_everything, strip_pruning, wrap_for_pruning, zero_smallest
from toolkit.qat import plain_layer, quantize_aware
from toolkit.stream import BatchStream, TrainingSet
from toolkit.tf import tf

TINY = EfficientNet(
    "tiny", "swish", True, blocks=((3, 1, 8, 1, 1), (3, 2, 8, 4, 2)), stem_channels=8, feature_channels=16
)
ARCH = Architecture(backbone="tiny", size_px=32, dropout=0.0, drop_connect=0.0)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "tiny", TINY)


def _pixels(n: int) -> tuple[Any, Any]:
    """(n, 32, 32) uint8 with a brighter upper half in every second one, and the labels (n,)."""
    labels = (np.arange(n) % 2).astype(np.int64)
    pixels = np.random.default_rng(0).integers(0, 120, (n, 32, 32), np.uint8)
    pixels[labels == 1, :16] += 100
    return pixels, labels


def _stream() -> BatchStream:
    pixels, labels = _pixels(32)
    data = TrainingSet(pixels=pixels, labels=labels, tonal=None, input_scale=INPUT_SCALE)
    return BatchStream(data, batch_size=8, augmenter=Augmenter("light"), seed=1, workers=2, weigh=True)


def _fit(model: Any, folder: Path, *, epochs: int, name: str = "float", rate: float = 3e-3, **options: Any) -> Any:
    stream = _stream()
    phase = Phase(name, epochs, Schedule(rate, warmup_steps=0, total_steps=3 * stream.steps), **options)
    said: list[str] = []
    history = run_phase(
        phase,
        model,
        stream,
        Validation(*_pixels(16)),
        input_scale=INPUT_SCALE,
        folder=folder / name,
        tensorboard=folder / "tensorboard",
        say=said.append,
    )
    return history, said


def _built() -> Any:
    seed_everything(3)
    return build_classifier(ARCH, trainable_drop=False)


def _equal(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


def test_the_same_seed_gives_the_same_weights_and_an_interruption_changes_nothing(tmp_path: Path) -> None:
    whole, again, cut = _built(), _built(), _built()
    history, _ = _fit(whole, tmp_path / "a", epochs=2)
    _fit(again, tmp_path / "b", epochs=2)
    assert _equal(whole, again)
    _fit(cut, tmp_path / "c", epochs=1)
    resumed = _built()
    later, said = _fit(resumed, tmp_path / "c", epochs=2)
    assert _equal(whole, resumed)
    assert said[0] == "float: going on after epoch 1"
    assert [epoch["epoch"] for epoch in later] == [1, 2]
    assert later[1]["loss"] == history[1]["loss"]
    assert {"step_ms", "input_wait_share", "val_auroc", "val_loss", "learning_rate"} <= set(later[1])


def test_a_kill_between_history_and_checkpoint_repeats_one_epoch(tmp_path: Path) -> None:
    _fit(_built(), tmp_path, epochs=1)
    file = tmp_path / "float" / "history.json"
    history = json.loads(file.read_text())
    file.write_text(json.dumps([*history, dict(history[0], epoch=2)]))
    left = tmp_path / "float" / "checkpoints" / "ckpt-2_temp"
    left.mkdir()
    later, _ = _fit(_built(), tmp_path, epochs=2)
    assert [epoch["epoch"] for epoch in later] == [1, 2]
    assert not left.exists()


DAMAGE = [
    ("checkpoints/ckpt-1.index", b"not a checkpoint"),
    ("checkpoints/ckpt-1.data-00000-of-00001", b""),
    ("checkpoints/checkpoint", b"\xff"),
    ("checkpoints/checkpoint", b'model_checkpoint_path: "x"'),
    ("history.json", b"null"),
    ("history.json", b"[1]"),
    ("history.json", b"[" * 100_000),
]


def test_a_damaged_checkpoint_says_what_to_remove(tmp_path: Path) -> None:
    _fit(_built(), tmp_path / "whole", epochs=1)
    for file, content in DAMAGE:
        shutil.copytree(tmp_path / "whole", tmp_path / "run", dirs_exist_ok=True)
        assert (tmp_path / "run" / "float" / file).is_file()
        (tmp_path / "run" / "float" / file).write_bytes(content)
        with pytest.raises(ModelError, match="cannot be read") as caught:
            _fit(_built(), tmp_path / "run", epochs=2)
        assert f"remove {tmp_path / 'run' / 'float'}" in str(caught.value)


def test_a_file_where_a_folder_must_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(ResourceError, match="tensorboard is not a directory"):
        _fit(_built(), tmp_path, epochs=1)


def test_a_loss_that_is_no_number_ends_the_phase(tmp_path: Path) -> None:
    model = _built()
    model.get_layer("logit").set_weights([np.full((16, 1), np.nan), np.zeros(1)])
    with pytest.raises(ModelError, match="diverged"):
        _fit(model, tmp_path, epochs=1)
    assert not (tmp_path / "float" / "history.json").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("needs leave to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_while_training(small_disk: Path) -> None:
    _fit(_built(), small_disk, epochs=1)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 8192))
    with pytest.raises(ResourceError, match="cannot be written"):
        _fit(_built(), small_disk, epochs=2)
    ballast.unlink()
    history, said = _fit(_built(), small_disk, epochs=2)
    assert said[0] == "float: going on after epoch 1"
    assert len(history) == 2


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny network, pruned in two parts, and its quantization-aware graph before and after training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", TINY)
        folder = tmp_path_factory.mktemp("compressed")

        def pruning() -> Any:
            return wrap_for_pruning(_built(), sparsity=0.3, steps=3 * _stream().steps)

        options: dict[str, Any] = {"name": "prune", "callbacks": pruning_callbacks()}
        _fit(pruning(), folder, epochs=2, **options)
        pruned = pruning()
        options["callbacks"] = pruning_callbacks()
        _, said = _fit(pruned, folder, epochs=3, **options)
        plain = build_classifier(ARCH, trainable_drop=False)
        stripped = strip_pruning(pruned, sparsity=0.3)
        for layer in plain.layers:
            layer.set_weights(stripped.get_layer(layer.name).get_weights())
        reestimate_batch_norm(plain, [batch.x for batch in _stream().epoch(10**6)])
        quantized = quantize_aware(plain, input_scale=INPUT_SCALE)
        before = _zeros(quantized)
        _fit(quantized, folder, epochs=2, name="qat", rate=1e-2)
        return {"plain": plain, "quantized": quantized, "before": before, "after": _zeros(quantized), "said": said}


def _zeros(quantized: Any) -> dict[str, Any]:
    """Where each pruned kernel is zero, by layer."""
    masks = {}
    for layer in quantized.layers:
        if is_pruned(plain_layer(layer)):
            kernel = next(v for v in layer.weights if v.name.split("/")[-1] == "kernel:0")
            masks[plain_layer(layer).name] = kernel.numpy() == 0
    return masks


def test_each_pruned_kernel_has_its_zeros(compressed: dict[str, Any]) -> None:
    assert compressed["said"][0] == "prune: going on after epoch 2"
    for layer in compressed["plain"].layers:
        if is_pruned(layer):
            kernel = layer.get_weights()[0]
            assert np.mean(kernel == 0) >= 0.3, layer.name


def test_quantization_aware_training_keeps_every_zero(compressed: dict[str, Any]) -> None:
    assert len(compressed["before"]) >= 10
    for name, mask in compressed["before"].items():
        assert mask.mean() >= 0.3, name
        assert compressed["after"][name][mask].all(), name


def test_the_input_range_is_held(compressed: dict[str, Any]) -> None:
    layer = compressed["quantized"].get_layer("quantize_layer")
    values = {v.name.split("_")[-1]: float(v.numpy()) for v in layer.weights if "min" in v.name or "max" in v.name}
    assert sorted(values.values()) == pytest.approx(INPUT_SCALE.range, rel=1e-6)


def test_the_tiny_file_is_integers_throughout(compressed: dict[str, Any]) -> None:
    facts = inspect_tflite(to_int8(compressed["quantized"], scale=INPUT_SCALE, size_px=32))
    assert (facts.float_operators, facts.partitions) == (0, 1)
    assert facts.zero_share_pruned >= 0.3


def test_predict_takes_any_number_of_xrays_and_traces_once() -> None:
    model = _built()
    pixels, _ = _pixels(22)
    expected = model(INPUT_SCALE.normalise(pixels[..., None].astype(np.float32)), training=False).numpy()[:, 0]
    for _ in range(2):
        np.testing.assert_allclose(predict(model, pixels, INPUT_SCALE, batch=8), expected, atol=1e-6)
    assert model.predict_function.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.301, 1.0])
def test_zero_smallest_zeroes_the_smallest(share: float) -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 7, 5)).astype(np.float32)
    out = zero_smallest(kernel, share=share)
    assert np.mean(out == 0) >= share
    assert np.count_nonzero(out == 0) <= np.ceil(share * kernel.size)
    if 0 < share < 1:
        assert np.abs(kernel[out == 0]).max() <= np.abs(out[out != 0]).min()


def test_batch_norm_is_the_plain_mean_over_batches() -> None:
    model = _built()
    inputs = [batch.x for batch in _stream().epoch(0)]
    reestimate_batch_norm(model, inputs)
    stem = tf.keras.Model(model.input, model.get_layer("stem_conv").output)
    means = [stem(x).numpy().mean(axis=(0, 1, 2)) for x in inputs]
    np.testing.assert_allclose(model.get_layer("stem_bn").moving_mean.numpy(), np.mean(means, axis=0), atol=1e-5)
    assert model.get_layer("stem_bn").momentum == 0.9


def test_the_gate(tmp_path: Path) -> None:
    with pytest.raises(ExportGateError, match=r"0\.0200 lost") as caught:
        _gate(0.90, 0.88, TrainConfig(), tmp_path, pairs=54)
    assert "too few X-rays to tell" in str(caught.value)
    assert "--allow-int8-loss" in str(caught.value)
    assert caught.value.exit_code == 5
    _gate(0.90, 0.88, TrainConfig(allow_int8_loss=True), tmp_path, pairs=54)
    _gate(0.90, 0.895, TrainConfig(), tmp_path, pairs=54)


def test_the_schedule_warms_up_and_comes_down() -> None:
    schedule: Callable[[int], float] = Schedule(peak=1.0, warmup_steps=10, total_steps=110)
    rates = [schedule(step) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[110] == pytest.approx(0.01)
