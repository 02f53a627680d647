"""The benchmark: who takes part, the measurement, the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firmware_bridge.errors import ConfigError, InputError, MissingExtraError
from firmware_bridge.result import NOTICE
from toolkit.benchmark.cold import Cold, measure_cold
from toolkit.benchmark.contenders import Ours
from toolkit.benchmark.machine import machine
from toolkit.benchmark.naive import DEFAULT_THREADS, Naive, stock_tflite
from toolkit.benchmark.stock import stock_file
from toolkit.benchmark.stopwatch import FOLDER, SCORE, TOTAL, FolderContender, Lap, take_folder_turns, take_turns
from toolkit.progress import progress

SCHEMA = 1
PICTURES = (".jpg", ".jpeg", ".png")
DICOM = (".dcm", ".dicom")
STAGES = ("decode", "lungs", "preprocess", "infer", SCORE, "explain", TOTAL, FOLDER)
COMPARED = ("infer", SCORE, FOLDER)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        models: `.tflite` files, at least one.
        images: the folder whose X-rays are used, searched with its subfolders.
        threads: each model runs once with each of these, 1 or more.
        rounds: turns of each contender.
        limit: at most so many X-rays, spread evenly over the folder.
        naive: the naive way beside the models, where the extra [train] is there.
    """

    models: Sequence[Path]
    images: Path
    threads: Sequence[int] = (1, 2)
    rounds: int = 7
    limit: int = 12
    naive: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's figures. `ratios` are shares of the others' times in the same rounds: "infer / NAME" -> share."""

    name: str
    threads: int
    stages_ms: Mapping[str, Mapping[str, float]]  # stage -> {"p50", "p95"}
    ratios: Mapping[str, float]
    runtime: str = ""
    delegate: str = ""
    partitions: int = 0
    file_bytes: int = 0
    cold: Cold | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """All that one run measured."""

    rows: tuple[Row, ...]
    machine: Mapping[str, Any]
    images: int
    rounds: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {"schema": SCHEMA, "notice": NOTICE, **asdict(self)}


def run_benchmark(plan: Plan) -> Benchmark:
    """Measure everything in the plan, all of it in one run.

    Raises:
        ConfigError: a number in the plan makes no sense.
        InputError: there is no X-ray in the folder.
        MissingExtraError: peers are wanted and their packages are missing.
        ModelError: a file cannot be run.
    """
    _check(plan)
    images, notes = _choose_images(plan)
    ours = [Ours(model, threads=threads) for model in plan.models for threads in plan.threads]
    others = _others(plan, images, notes)
    # Before the turns, which warm everything: a fresh process for each file, with nothing else running.
    colds = [measure_cold(one.model, images[0], threads=one.threads) for one in ours]
    everybody: list[FolderContender] = [*ours, *others]
    laps = take_turns(everybody, images, progress(range(plan.rounds), "benchmark rounds, X-ray by X-ray"))
    take_folder_turns(everybody, laps, images, progress(range(plan.rounds), "benchmark rounds, the folder at once"))
    rivals = list(zip(others, laps[len(ours) :], strict=True))
    rows = [_our_row(one, lap, cold, rivals) for one, lap, cold in zip(ours, laps[: len(ours)], colds, strict=True)]
    rows += [Row(one.name, one.threads, _stages(lap), {}) for one, lap in rivals]
    return Benchmark(tuple(rows), machine(), len(images), plan.rounds, tuple(notes))


def _check(plan: Plan) -> None:
    for name, values in (("threads", plan.threads), ("rounds", (plan.rounds,)), ("limit", (plan.limit,))):
        if not values or min(values) < 1:
            raise ConfigError(
                f"the benchmark cannot run with these {name}",
                expected="whole numbers of 1 or more",
                came=", ".join(map(str, values)) or "nothing",
                do=f"set --{name}",
            )


def _choose_images(plan: Plan) -> tuple[list[Path], list[str]]:
    """At most `limit` X-rays, evenly spread; pictures before DICOM, which the naive way cannot read."""
    found = sorted(path for path in plan.images.rglob("*") if path.suffix.lower() in PICTURES + DICOM)
    if not found:
        raise InputError(
            f"nothing to measure in {plan.images}",
            expected=f"X-rays ({', '.join(PICTURES + DICOM)})",
            came="a folder without any",
            do="give a folder with X-rays: --images samples",
        )
    pictures = [path for path in found if path.suffix.lower() in PICTURES]
    notes = []
    if plan.naive and pictures and len(pictures) < len(found):
        notes.append(f"{len(found) - len(pictures)} DICOM files left out: the naive way cannot read them")
        found = pictures
    step = max(1.0, len(found) / plan.limit)
    return [found[int(index * step)] for index in range(min(plan.limit, len(found)))], notes


def _others(plan: Plan, images: Sequence[Path], notes: list[str]) -> list[Naive]:
    if not plan.naive:
        return []
    if images[0].suffix.lower() in DICOM:
        notes.append("the naive way is left out: it cannot read DICOM")
        return []
    try:
        file = stock_file()
    except MissingExtraError as error:
        # A device measures itself without TensorFlow; the comparison is then missing, and the report says so.
        notes.append(f"the naive way is left out: {error.what} ({error.do})")
        return []
    # Always as a script leaves it, too: that is what most people would compare with.
    counts = sorted({DEFAULT_THREADS, *plan.threads})
    others = [Naive(stock_tflite(file, threads=threads), threads=threads) for threads in counts]
    as_written = stock_tflite(file, threads=DEFAULT_THREADS)
    return [*others, Naive(as_written, threads=DEFAULT_THREADS, bilinear=True)]


def _our_row(one: Ours, lap: Lap, cold: Cold, rivals: Sequence[tuple[Naive, Lap]]) -> Row:
    ratios: dict[str, float] = {}
    for rival, theirs in rivals:
        if rival.threads in (one.threads, DEFAULT_THREADS):
            for stage in COMPARED:
                if stage in theirs.stages:
                    name = rival.name if rival.threads == one.threads else f"{rival.name}, {rival.threads} thread"
                    ratios[f"{stage} / {name}"] = lap.ratio_to(theirs, stage)
    return Row(
        name=one.name,
        threads=one.threads,
        stages_ms=_stages(lap),
        ratios=ratios,
        runtime=one.interpreter.runtime,
        delegate=one.interpreter.delegate,
        partitions=one.interpreter.partitions,
        file_bytes=one.model.stat().st_size,
        cold=cold,
    )


def _stages(lap: Lap) -> dict[str, dict[str, float]]:
    return {
        stage: {"p50": lap.percentile_ms(stage, 50), "p95": lap.percentile_ms(stage, 95)}
        for stage in STAGES
        if stage in lap.stages
    }
