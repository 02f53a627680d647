"""What earlier runs have learned from: weights and teachers bring their X-rays along into the run that goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from firmware_bridge.errors import AuditError
from toolkit.config import TrainConfig
from toolkit.data.index import Index


def refuse_learned(index: Index, config: TrainConfig) -> None:
    """Refuse weights and teachers of a run that was trained on X-rays that are held out here.

    Only runs that still have their `index.csv` can tell; X-rays are known by their paths.

    Args:
        index: with splits.
        config: `weights` and `teacher` are looked at; with `allow_leaks` nothing is.

    Raises:
        AuditError: validation or test holds X-rays that one of them was trained on.
        IndexFormatError: an earlier run's index cannot be read.
    """
    if config.allow_leaks:
        return
    held = {row.path for row in index if row.split in ("validation", "test")}
    for option, run in _earlier_runs(config):
        learned = held & {row.path for row in Index.read(run / "index.csv") if row.split == "train"}
        if learned:
            raise AuditError(
                f"what --{option} names was trained on X-rays that are held out here",
                expected="X-rays of validation and test that no part of the model has seen",
                came=f"{len(learned)} of them in the training split of {run}",
                do=f"give the index of that run ({run / 'index.csv'}), or accept it with --allow-leaks",
            )


def _earlier_runs(config: TrainConfig) -> Iterator[tuple[str, Path]]:
    """Option and folder of each run that weights or a teacher come from: RUN, RUN/models/FILE or RUN/float/FILE."""
    named = [("weights", config.weights), *(("teacher", part) for part in config.teacher.split(os.pathsep) if part)]
    for option, text in named:
        path = Path(text).expanduser().absolute()
        run = path if path.is_dir() else path.parent.parent
        if path.exists() and (run / "index.csv").is_file():
            yield option, run
