"""The process of one contender: loads it, then does what lines of JSON on standard input ask for.

A process of its own, in an environment that holds its runtime and nothing else: memory and start are its own, and no
library meets another one's threads. It answers each line with one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from benchmarks.contenders import Contender
from benchmarks.lines import open_line
from toolkit.memory import peak_bytes

if TYPE_CHECKING:
    from toolkit.benchmark.contenders import Line
    from toolkit.benchmark.naive import Naive


def _answers() -> TextIO:
    """Standard output for answers alone: libraries that print are sent to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(kept, "w", encoding="utf-8")


def _logits(line: Line | Naive, pixels_file: str) -> list[float]:
    import numpy as np

    from toolkit.benchmark.contenders import Line

    assert isinstance(line, Line)  # the naive ways have no trained weights to be asked about
    with np.load(pixels_file) as stored:
        pixels = stored["pixels"]  # (N, S, S) uint8
    scorer = line.scorer
    return [scorer.head.logit(scorer.interpreter.run(one).mean_features()) for one in pixels]


def _actions(line: Line | Naive) -> Mapping[str, Callable[..., Any]]:
    return {
        "time": lambda image: line.time(Path(image)),
        "folder": lambda images: line.time_folder([Path(image) for image in images]),
        "logits": lambda pixels: _logits(line, pixels),
        "peak": lambda: peak_bytes() or 0,
    }


def main(order: Mapping[str, Any]) -> None:
    """Serve until standard input ends.

    Args:
        order: "contender", "folder", "preprocessing", "threads"; with "once" (an X-ray) it scores that and ends.
    """
    answers = _answers()
    line = open_line(
        Contender(**order["contender"]), Path(order["folder"]), order["preprocessing"], threads=order["threads"]
    )
    if "once" in order:
        line.time(Path(order["once"]))
        answers.write(json.dumps({"scored_at_s": time.time(), "peak_bytes": peak_bytes() or 0}) + "\n")
        answers.flush()
        return
    actions = _actions(line)
    answers.write(json.dumps("ready") + "\n")
    answers.flush()
    for text in sys.stdin:
        asked = json.loads(text)
        answers.write(json.dumps(actions[asked.pop("do")](**asked)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
