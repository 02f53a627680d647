"""Takes turns: A B C, A B C, ... so that a machine that slows down slows all alike, and ratios hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

SCORE = "file to score"
TOTAL = "total"
FOLDER = "folder"


class Contender(Protocol):
    """One way from an X-ray to a score, with a number of threads of its own."""

    @property
    def name(self) -> str:
        """How the table calls it."""

    @property
    def threads(self) -> int:
        """How many threads it may use."""

    def time(self, image: Path) -> Mapping[str, float]:
        """Process one X-ray.

        Returns:
            stage -> milliseconds, in the order in which the stages run.
        """


class FolderContender(Contender, Protocol):
    """One that also processes many X-rays as it would a whole folder: one after the other, or overlapped."""

    def time_folder(self, images: Sequence[Path]) -> float:
        """Milliseconds for one X-ray of a folder, on average."""


@dataclass(slots=True)
class Lap:
    """What one contender needed: stage -> one list of milliseconds for each round."""

    stages: dict[str, list[list[float]]] = field(default_factory=dict)

    def add(self, round_: int, times: Mapping[str, float]) -> None:
        """Note one X-ray of a round."""
        for stage, milliseconds in times.items():
            rounds = self.stages.setdefault(stage, [])
            while len(rounds) <= round_:
                rounds.append([])
            rounds[round_].append(milliseconds)

    def percentile_ms(self, stage: str, percent: float) -> float:
        """A percentile over all rounds, milliseconds."""
        return float(np.percentile([time for times in self.stages[stage] for time in times], percent))

    def ratio_to(self, other: Lap, stage: str) -> float:
        """This stage's time as a share of the other's: the median over the rounds of the ratio of medians.

        Within a round the two ran next to each other, so that a slow spell of the machine divides out.
        """
        pairs = zip(self.stages[stage], other.stages[stage], strict=True)
        return float(np.median([np.median(mine) / np.median(theirs) for mine, theirs in pairs]))


def take_turns(contenders: Sequence[Contender], images: Sequence[Path], rounds: Iterable[int]) -> list[Lap]:
    """Let every contender process all X-rays, one contender after the other, round by round.

    The order turns by one each round, so that nobody always follows the same neighbour; and each turn begins with one
    X-ray that isn't counted, because the neighbour has emptied the caches and its threads may still be spinning.
    """
    laps = [Lap() for _ in contenders]
    for round_ in rounds:
        for turn in range(len(contenders)):
            which = (turn + round_) % len(contenders)
            contenders[which].time(images[0])
            for image in images:
                laps[which].add(round_, contenders[which].time(image))
    return laps


def take_folder_turns(
    contenders: Sequence[FolderContender], laps: Sequence[Lap], images: Sequence[Path], rounds: Iterable[int]
) -> None:
    """The same turns with the whole folder at once; adds the stage `FOLDER` to each contender's lap."""
    for round_ in rounds:
        for turn in range(len(contenders)):
            which = (turn + round_) % len(contenders)
            contenders[which].time(images[0])
            laps[which].add(round_, {FOLDER: contenders[which].time_folder(images)})
