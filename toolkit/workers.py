"""Floating-point training shared by several processes or machines: the same step, each on its part of the batch.

`tf.distribute.MultiWorkerMirroredStrategy` (synchronous; gradients are summed over the workers after each step). Every
worker runs the same command with a run folder of its own and ends with the same weights; `TF_CONFIG` names them all.
"""

from __future__ import annotations

import json
import os
from typing import Any

from firmware_bridge.errors import ConfigError
from toolkit.stream import Batch
from toolkit.tf import tf

_EXAMPLE = '{"cluster": {"worker": ["10.0.0.1:7000", "10.0.0.2:7000"]}, "task": {"type": "worker", "index": 0}}'


class Workers:
    """The processes that train one model.

    Args:
        strategy: TensorFlow's; None where this process trains alone.
    """

    def __init__(self, strategy: Any = None) -> None:
        self._strategy = strategy or tf.distribute.get_strategy()
        resolver = getattr(strategy, "cluster_resolver", None)
        self.count: int = self._strategy.num_replicas_in_sync
        self.index: int = resolver.task_id if resolver else 0

    def scope(self) -> Any:
        """Where model and optimizer are made."""
        return self._strategy.scope()

    def stepper(self, model: Any) -> Stepper:
        """The training step of a compiled `model`."""
        return Stepper(model, None if self.count == 1 else self._strategy)


class Stepper:
    """One training step; called with this worker's part of a batch, it returns the mean loss of the epoch so far."""

    def __init__(self, model: Any, strategy: Any) -> None:
        self._model = model
        self._strategy = strategy
        self._step = tf.function(self._together) if strategy else None
        self.traced = False

    def __call__(self, batch: Batch) -> float:
        """Train on `batch`; all workers do at the same time."""
        if self._step is None:
            loss = self._model.train_on_batch(batch.x, batch.y, sample_weight=batch.weights, reset_metrics=False)
        else:
            loss = self._step(tf.constant(batch.x), tf.constant(batch.y), tf.constant(batch.weights))
        self.traced = True
        return float(loss)

    def _together(self, x: Any, y: Any, weights: Any) -> Any:
        told = self._strategy.run(self._model.train_step, args=((x, y, weights),))
        return self._strategy.reduce(tf.distribute.ReduceOp.MEAN, told["loss"], axis=None)


def alone() -> Workers:
    """This process, without others."""
    return Workers()


def gather(distribute: str, *, batch_size: int) -> Workers:
    """The workers that `distribute` asks for; waits until all are there. Before anything else of TensorFlow.

    Args:
        distribute: "none" or "multi-worker".
        batch_size: of all workers together.

    Raises:
        ConfigError: `TF_CONFIG` names no workers, or the batch cannot be shared out evenly.
    """
    if distribute == "none":
        return alone()
    told = os.environ.get("TF_CONFIG", "")
    try:
        count = len(json.loads(told)["cluster"]["worker"])
        int(json.loads(told)["task"]["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "it is not known who trains together",
            expected=f"TF_CONFIG in the environment of each worker, such as {_EXAMPLE}",
            came=repr(told) if told else "no TF_CONFIG",
            do="set it, with another index for each worker, and start all of them",
        ) from error
    if batch_size % count:
        raise ConfigError(
            "the batch cannot be shared out",
            expected=f"a batch size that {count} workers divide evenly",
            came=str(batch_size),
            do=f"give --batch-size {max(1, batch_size // count) * count}",
        )
    return Workers(tf.distribute.MultiWorkerMirroredStrategy())
