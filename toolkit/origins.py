"""What a run's initial weights and teachers had learned from before: figures on those X-rays promise too much."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.bundle import open_bundle
from firmware_bridge.shipped import bundle_path
from toolkit.config import TrainConfig
from toolkit.data.index import SEEN_SPLITS, Index
from toolkit.files import damaged_note, write_atomically
from toolkit.shipped_weights import shipped_weights

FILE = "origins.json"
LEARNED_BEFORE = "learned_before"  # the key in a manifest's `data`


@dataclass(frozen=True, slots=True)
class Origins:
    """What is known of the past of a model.

    Attributes:
        seen: X-rays that initial weights or teachers were trained or chosen by, as their runs tell.
        unknown: names of initial weights and teachers whose X-rays nobody here can tell.
    """

    seen: frozenset[Path] = frozenset()
    unknown: tuple[str, ...] = ()

    def __or__(self, other: Origins) -> Origins:
        return Origins(self.seen | other.seen, tuple(dict.fromkeys((*self.unknown, *other.unknown))))

    def warnings(self, test: Iterable[Path]) -> list[str]:
        """What to say before training about the X-rays of `test`."""
        said = []
        tested = frozenset(test)
        if both := self.seen & tested:
            said.append(
                f"{len(both)} of the {len(tested)} test X-rays were learned from by the initial weights or a teacher: "
                "figures on them will promise too much"
            )
        if self.unknown:
            said.append(
                f"{' and '.join(self.unknown)}: learned from X-rays that cannot be compared with these; figures on "
                "X-rays that were among them will promise too much"
            )
        return said


def origins_of(config: TrainConfig) -> Origins:
    """What the initial weights and the teachers of `config` had learned from.

    Raises:
        BundleError: a teacher's bundle cannot be opened.
        IndexFormatError: the index of a run among them cannot be read.
        InputError: what such a run says of its own origins cannot be read.
    """
    found = Origins()
    if config.weights not in ("none", "imagenet"):
        found |= _of_weights(config.weights)
    if config.teacher != "none":
        for part in config.teacher.split(os.pathsep):
            found |= _of_teacher(Path(part).expanduser()) if part else Origins()
    return found


def write_origins(origins: Origins, run: Path) -> None:
    """Keep `origins` in the folder of a run.

    Raises:
        ResourceError: they cannot be written.
    """
    said = {"seen": sorted(map(str, origins.seen)), "unknown": list(origins.unknown)}
    write_atomically(run / FILE, json.dumps(said, indent=1) + "\n")


def read_origins(run: Path) -> Origins:
    """What `write_origins` kept in the folder of a run; nothing where there is no such file.

    Raises:
        InputError: the file cannot be read.
    """
    file = run / FILE
    if not file.is_file():
        return Origins()
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        return Origins(frozenset(map(Path, said["seen"])), tuple(map(str, said["unknown"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged_note(file, error) from error


def _of_weights(weights: str) -> Origins:
    if shipped_weights(weights) is not None:
        return Origins(unknown=(weights,))
    path = Path(weights).expanduser()
    return _of_run(path.resolve().parent.parent) or _unknown(path)  # RUN/float/final.weights.h5


def _of_teacher(path: Path) -> Origins:
    if path.is_dir():
        return _of_run(path) or _unknown(path)
    if path.suffix == ".tflite":
        return _of_run(path.resolve().parent.parent) or _unknown(path)  # RUN/models/model.float.tflite
    with open_bundle(bundle_path(path)) as bundle:
        return _unknown(path) | Origins(unknown=learned_before(bundle.manifest.data))


def _of_run(folder: Path) -> Origins | None:
    index = folder / "index.csv"
    if not index.is_file():
        return None
    seen = frozenset(row.path for row in Index.read(index) if row.split in SEEN_SPLITS)
    return Origins(seen) | read_origins(folder)


def _unknown(path: Path) -> Origins:
    # No more of the path than that: it goes into bundles, and with them to other people.
    return Origins(unknown=("/".join(path.parts[-2:]),))


def learned_before(data: Mapping[str, object]) -> tuple[str, ...]:
    """The names in a manifest's `data`, which may hold anything."""
    said = data.get(LEARNED_BEFORE)
    return tuple(one for one in said if isinstance(one, str)) if isinstance(said, list | tuple) else ()
