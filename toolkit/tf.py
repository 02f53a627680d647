"""The one place that imports TensorFlow: with Keras 2, because tensorflow-model-optimization refuses Keras 3."""

from __future__ import annotations

import gc
import os
import sys

from firmware_bridge.errors import ConfigError, MissingExtraError
from toolkit.quiet import quiet

__all__ = ["forget_graphs", "keras", "tf", "tfmot"]

if "tensorflow" in sys.modules and os.environ.get("TF_USE_LEGACY_KERAS") != "1":
    raise ConfigError(
        "TensorFlow was imported before cxr-edge could choose Keras 2",
        expected="TF_USE_LEGACY_KERAS=1 before the first import of tensorflow",
        came="tensorflow is imported and the variable is not set",
        do="export TF_USE_LEGACY_KERAS=1, or import toolkit.tf first",
    )
os.environ["TF_USE_LEGACY_KERAS"] = "1"

try:
    with quiet():
        # A machine without a GPU is told so as an error, at every start. What matters comes as an exception too.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow as tf
        import tensorflow_model_optimization as tfmot
        import tf_keras as keras
except ImportError as error:
    raise MissingExtraError.for_module(error.name or "tensorflow", "train") from error

# tfmot's wrappers make AutoGraph warn about source it cannot parse; it then runs them unconverted, as it should.
tf.get_logger().setLevel("ERROR")


def forget_graphs() -> None:
    """Give back what Keras keeps of finished models.

    Without it each training of a row of them in one process left half a gigabyte behind (EfficientNet-Lite0, 96 px).
    """
    keras.backend.clear_session()
    gc.collect()
