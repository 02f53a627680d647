"""What following the float model does to a truth, a loss and a trained graph."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.augment import Augmenter
from toolkit.batch_norm import reestimate_batch_norm
from toolkit.follow import FollowingLoss, FollowingStream, with_features
from toolkit.input_scale import INPUT_SCALE
from toolkit.model import Architecture, build_classifier, copy_weights
from toolkit.prune import seed_everything, wrap_for_pruning
from toolkit.qat import quantize_aware
from toolkit.stream import BatchStream, TrainingSet
from toolkit.tf import keras, tf

ARCH = Architecture(backbone="efficientnet-lite0", size_px=32)


@pytest.fixture(scope="module")
def model():
    seed_everything(7)
    built = build_classifier(ARCH, trainable_drop=False)
    reestimate_batch_norm(built, (batch.x for batch in _stream().epoch(10**6)))
    return built


def _stream(xrays: int = 8) -> BatchStream:
    rng = np.random.default_rng(3)
    data = TrainingSet(
        pixels=rng.integers(0, 256, (xrays, 32, 32), np.uint8),
        labels=np.arange(xrays) % 2,
        tonal=None,
        input_scale=INPUT_SCALE,
    )
    return BatchStream(data, batch_size=4, augmenter=Augmenter("none", {}), seed=1, workers=0, weigh=True)


def test_the_truth_goes_on_with_the_teachers_answer_and_features_of_the_same_batch(model):
    teacher = with_features(model)
    plain, followed = next(_stream().epoch(0)), next(FollowingStream(_stream(), teacher).epoch(0))
    np.testing.assert_array_equal(followed.x, plain.x)
    np.testing.assert_array_equal(followed.y[:, :1], plain.y)
    told = teacher.predict_on_batch(plain.x)
    assert told.shape == (4, 1 + 1280)  # 1 x 1 places of 1280 maps
    np.testing.assert_allclose(followed.y[:, 1:], told, atol=1e-5)
    np.testing.assert_allclose(told[:, :1], model.predict_on_batch(plain.x), atol=1e-6)


def test_a_message_tokens_second_answer_is_not_the_teachers(model):
    del model
    told = Architecture(backbone="efficientnet-lite0", size_px=32, message_token=True)
    assert with_features(build_classifier(told)).output_shape == (None, 1 + 1280)


@pytest.mark.parametrize("kind", ["pruned", "quantized"])
def test_wrapped_graphs_show_their_features_and_share_their_weights(model, kind):
    if kind == "pruned":
        wrapped = wrap_for_pruning(model, sparsity=0.3, steps=12)
    else:
        wrapped = quantize_aware(model, input_scale=INPUT_SCALE)
    followed = with_features(wrapped)
    assert followed.output_shape == (None, 1 + 1280)
    assert {id(v) for v in followed.trainable_variables} == {id(v) for v in wrapped.trainable_variables}


def test_the_loss_is_the_labels_alone_at_share_0_and_nothing_for_a_perfect_copy_at_share_1():
    labels = keras.losses.BinaryCrossentropy()
    truth = tf.constant([[1.0, 1.0, 3.0, 4.0]])  # label, teacher's probability, two features
    copy, other = tf.constant([[1.0, 3.0, 4.0]]), tf.constant([[1.0, 3.0, 0.0]])
    alone = FollowingLoss(labels, share=0.0, columns=1)
    whole = FollowingLoss(labels, share=1.0, columns=1)
    assert float(alone(truth, other)) == pytest.approx(float(labels([[1.0]], [[1.0]])), abs=1e-5)
    assert float(whole(truth, copy)) == pytest.approx(0.0, abs=1e-4)
    assert float(whole(truth, other)) == pytest.approx(16 / 25, abs=1e-4)


def test_a_student_that_follows_comes_nearer_to_the_teachers_features(model):
    student = build_classifier(ARCH, trainable_drop=False)
    copy_weights(model, student)
    rng = np.random.default_rng(5)
    for kernel in student.trainable_variables:
        kernel.assign(kernel + 0.1 * float(tf.math.reduce_std(kernel)) * rng.normal(size=kernel.shape))
    for layer in student.layers:
        # Frozen batch norm uses the moving statistics, as the teacher does.
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    teacher, followed = with_features(model), with_features(student)
    stream = FollowingStream(_stream(), teacher)
    followed.compile(
        keras.optimizers.Adam(1e-3), FollowingLoss(keras.losses.BinaryCrossentropy(), share=1.0, columns=1)
    )
    x = next(_stream().epoch(9)).x

    def distance() -> float:
        return float(tf.reduce_mean((teacher(x) - followed(x)) ** 2))

    before = distance()
    for epoch in range(15):
        for batch in stream.epoch(epoch):
            followed.train_on_batch(batch.x, batch.y, sample_weight=batch.weights)
    assert distance() < 0.8 * before
