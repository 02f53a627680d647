from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from toolkit.benchmark.stopwatch import Lap, take_turns

IMAGES = [Path("a.png"), Path("b.png")]


class Runner:
    """Needs a known time, on a machine that slows down with every call."""

    def __init__(self, name: str, ms: float, calls: list[str]) -> None:
        self.name, self.threads, self._ms, self._calls = name, 1, ms, calls

    def time(self, image: Path) -> Mapping[str, float]:
        self._calls.append(self.name)
        slowdown = 1 + 0.01 * len(self._calls)
        return {"infer": self._ms * slowdown}


def test_they_take_turns_and_the_first_of_each_turn_does_not_count() -> None:
    calls: list[str] = []
    laps = take_turns([Runner("A", 1, calls), Runner("B", 2, calls)], IMAGES, range(2))
    assert "".join(calls) == "AAABBB" + "BBBAAA"
    assert [len(times) for times in laps[0].stages["infer"]] == [2, 2]


def test_a_ratio_holds_on_a_machine_that_slows_down() -> None:
    calls: list[str] = []
    fast, slow = take_turns([Runner("A", 3, calls), Runner("B", 6, calls)], IMAGES, range(9))
    assert fast.percentile_ms("infer", 50) > 3.5
    assert fast.ratio_to(slow, "infer") == pytest.approx(0.5, abs=0.02)


def test_percentiles_are_over_all_rounds() -> None:
    lap = Lap()
    for round_, ms in enumerate([1.0, 2.0, 3.0]):
        lap.add(round_, {"decode": ms})
    assert lap.percentile_ms("decode", 50) == 2.0
    assert lap.percentile_ms("decode", 100) == 3.0
