"""Progressive unfreezing (Howard & Ruder 2018, section 3.3): the head first, then more and more below it."""

from __future__ import annotations

from typing import Any

from firmware_bridge.errors import ConfigError


def freeze_below(model: Any, prefix: str) -> int:
    """Let only the layers train from the first one on whose name begins with `prefix`, in the graph's order.

    Frozen batch normalisation keeps its statistics as well: Keras runs it as in inference.

    Returns:
        How many layers are frozen.

    Raises:
        ConfigError: no layer is called so.
    """
    names = [layer.name for layer in model.layers]
    first = next((i for i, name in enumerate(names) if name.startswith(prefix)), None)
    if first is None:
        raise ConfigError(
            f"no layer is called '{prefix}...'",
            expected="the beginning of a layer's name, such as logit, top, block7 or block6a",
            came=prefix,
            do="mend --unfreeze",
        )
    model.trainable = True
    for layer in model.layers[:first]:
        layer.trainable = False
    return first
