"""Distillation: what a saved teacher says becomes targets, and the loss weighs them as the paper has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firmware_bridge.errors import ConfigError
from firmware_bridge.shipped import shipped_bundle
from toolkit.config import TrainConfig
from toolkit.data.index import Index
from toolkit.distill import read_teachers, targets, teacher_logits
from toolkit.losses import Distillation, DistillationLoss, phase_loss
from toolkit.tf import tf

DATA = Path(__file__).resolve().parent.parent / "data"


def _cross_entropy(truth: Any, p: Any) -> Any:
    return -(truth * np.log(p) + (1 - truth) * np.log(1 - p))


def _soft(logit: float, temperature: float) -> float:
    return 1 / (1 + np.exp(-logit / temperature))


def test_the_loss_of_one_output() -> None:
    truth = np.array([[1.0, 0.7], [0.0, 0.4]], np.float32)
    logits = np.array([[0.3], [-1.2]])
    loss = DistillationLoss(0.0, Distillation(share=0.25, temperature=3.0))
    found = loss.call(tf.constant(truth), tf.constant(_soft(logits, 1.0), tf.float32)).numpy()
    hard = _cross_entropy(truth[:, 0], _soft(logits, 1.0)[:, 0])
    soft = _cross_entropy(truth[:, 1], _soft(logits, 3.0)[:, 0])
    np.testing.assert_allclose(found, 0.75 * hard + 0.25 * 9 * soft, rtol=1e-4)


def test_with_a_message_token_each_output_answers_its_own_truth() -> None:
    truth = tf.constant([[1.0, 0.0]])
    loss = DistillationLoss(0.0, Distillation(share=0.5))
    right = loss.call(truth, tf.constant([[0.99, 0.01]])).numpy()
    turned = loss.call(truth, tf.constant([[0.01, 0.99]])).numpy()
    assert right[0] < 0.02
    assert turned[0] > 4


def test_a_saturated_student_has_a_finite_loss_and_gradient() -> None:
    p = tf.Variable([[1.0], [0.0]])
    with tf.GradientTape() as tape:
        loss = DistillationLoss(0.0, Distillation(temperature=2.0))(tf.constant([[0.0, 0.1], [1.0, 0.9]]), p)
    assert np.isfinite(loss.numpy())
    assert np.isfinite(tape.gradient(loss, p).numpy()).all()


def test_without_a_teacher_the_loss_is_plain_cross_entropy() -> None:
    loss = phase_loss(label_smoothing=0.1, distillation=None)
    assert float(loss([[1.0]], [[0.8]])) == pytest.approx(_cross_entropy(0.95, 0.8), rel=1e-4)


def test_targets_are_soft_or_hard_and_the_label_where_the_teacher_is_silent() -> None:
    logits, labels = np.array([2.0, -2.0, np.nan, np.nan]), np.array([0, 1, 0, 1])
    soft = targets(logits, labels, hard=False, temperature=2.0)
    np.testing.assert_allclose(soft, [_soft(1.0, 1.0), _soft(-1.0, 1.0), 0.0, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(targets(logits, labels, hard=True, temperature=2.0), [1, 0, 0, 1])


def test_a_saved_file_teaches_and_two_teachers_are_averaged(samples: Path, tmp_path: Path) -> None:
    rows = Index.read(samples / "index.csv").rows[:6]
    options: dict[str, Any] = {"positive": "pneumonia", "cache": tmp_path, "workers": 1}
    one = read_teachers(str(DATA / "tiny.int8.tflite"), positive="pneumonia")
    alone = teacher_logits(one, rows, **options)
    (stored,) = tmp_path.glob("teacher-*.npy")
    assert np.isfinite(alone).all()
    assert len(set(alone)) > 1
    other = read_teachers(str(DATA / "tiny.float.tflite"), positive="pneumonia")
    both = read_teachers(f"{DATA / 'tiny.int8.tflite'}:{DATA / 'tiny.float.tflite'}", positive="pneumonia")
    mean = (alone + teacher_logits(other, rows, **options)) / 2
    np.testing.assert_allclose(teacher_logits(both, rows, **options), mean)
    assert len(list(tmp_path.glob("teacher-*.npy"))) == 3
    assert len(list(tmp_path.glob("teacher-*.npy"))) == 3
    np.save(stored, alone + 1)  # the second time nothing is scored: what is kept is what comes
    np.testing.assert_array_equal(teacher_logits(one, rows, **options), alone + 1)


def test_a_damaged_answer_of_a_teacher_is_asked_again(samples: Path, tmp_path: Path) -> None:
    rows = Index.read(samples / "index.csv").rows[:3]
    options: dict[str, Any] = {"positive": "pneumonia", "cache": tmp_path, "workers": 1}
    teacher = read_teachers(str(DATA / "tiny.int8.tflite"), positive="pneumonia")
    said = teacher_logits(teacher, rows, **options)
    (stored,) = tmp_path.glob("teacher-*.npy")
    stored.write_bytes(b"")
    np.testing.assert_array_equal(teacher_logits(teacher, rows, **options), said)


def test_a_teacher_of_another_label_is_refused() -> None:
    with pytest.raises(ConfigError, match="answers another question"):
        read_teachers(str(shipped_bundle()), positive="normal")
    assert read_teachers(str(shipped_bundle()), positive="pneumonia")


def test_an_xray_that_has_changed_is_scored_again(samples: Path, tmp_path: Path) -> None:
    first, other = Index.read(samples / "index.csv").rows[:2]
    row = replace(first, path=tmp_path / "x.jpg")
    options: dict[str, Any] = {"positive": "pneumonia", "cache": tmp_path / "cache", "workers": 1}
    teacher = read_teachers(str(DATA / "tiny.int8.tflite"), positive="pneumonia")
    row.path.write_bytes(first.path.read_bytes())
    before = teacher_logits(teacher, [row], **options)
    row.path.write_bytes(other.path.read_bytes())
    assert teacher_logits(teacher, [row], **options) != before


def test_a_token_without_a_teacher_is_refused() -> None:
    with pytest.raises(ConfigError, match="nobody to follow"):
        TrainConfig(message_token=True)
