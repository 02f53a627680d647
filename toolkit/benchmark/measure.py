"""The benchmark: who takes part, the measurement, the figures."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firmware_bridge.errors import ConfigError, InputError, MissingExtraError
from firmware_bridge.result import NOTICE
from toolkit.benchmark.cold import Cold, measure_cold
from toolkit.benchmark.contenders import DEFAULT_THREADS, Naive, OnnxRuntime, OpenVino, Ours
from toolkit.benchmark.rivals import rival_file
from toolkit.benchmark.stopwatch import FOLDER, SCORE, TOTAL, Contender, Lap, take_folder_turns, take_turns
from toolkit.progress import progress

SCHEMA = 1
PICTURES = (".jpg", ".jpeg", ".png")
DICOM = (".dcm", ".dicom")
STAGES = ("decode", "preprocess", "infer", SCORE, "explain", TOTAL, FOLDER)
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
        peers: ONNX Runtime and OpenVINO beside the models; needs [train,bench].
    """

    models: Sequence[Path]
    images: Path
    threads: Sequence[int] = (1, 2)
    rounds: int = 7
    limit: int = 12
    naive: bool = True
    peers: bool = False


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
    everybody: list[Contender] = [*ours, *others]
    laps = take_turns(everybody, images, progress(range(plan.rounds), "benchmark rounds, X-ray by X-ray"))
    whole = [(one, lap) for one, lap in zip(everybody, laps, strict=True) if isinstance(one, (Ours, Naive))]
    rounds = progress(range(plan.rounds), "benchmark rounds, the folder at once")
    take_folder_turns([one for one, _ in whole], [lap for _, lap in whole], images, rounds)
    rivals = list(zip(others, laps[len(ours) :], strict=True))
    rows = [_our_row(one, lap, cold, rivals) for one, lap, cold in zip(ours, laps[: len(ours)], colds, strict=True)]
    rows += [Row(one.name, one.threads, _stages(lap), {}) for one, lap in rivals]
    return Benchmark(tuple(rows), _machine(), len(images), plan.rounds, tuple(notes))


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


def _others(plan: Plan, images: Sequence[Path], notes: list[str]) -> list[Contender]:
    wanted: list[tuple[str, Callable[..., Contender]]] = []
    if plan.naive and images[0].suffix.lower() in DICOM:
        notes.append("the naive way is left out: it cannot read DICOM")
    elif plan.naive:
        wanted.append(("stock-b0.float.tflite", Naive))
    if plan.peers:
        wanted += [("b0.int8.onnx", OnnxRuntime), ("b0.int8.xml", OpenVino)]
    others: list[Contender] = []
    for name, build in progress(wanted, "files of the other contenders"):
        try:
            file = rival_file(name)
        except MissingExtraError as error:
            if build is not Naive:
                raise
            # A device measures itself without TensorFlow; the comparison is then missing, and the report says so.
            notes.append(f"the naive way is left out: {error.what} ({error.do})")
            continue
        if build is Naive:
            # Always as a script leaves it, too: that is what most people would compare with.
            others += [Naive(file, threads=threads) for threads in sorted({DEFAULT_THREADS, *plan.threads})]
            others.append(Naive(file, threads=DEFAULT_THREADS, bilinear=True))
        else:
            others += [build(file, threads=threads) for threads in plan.threads]
    return others


def _our_row(one: Ours, lap: Lap, cold: Cold, rivals: Sequence[tuple[Contender, Lap]]) -> Row:
    ratios: dict[str, float] = {}
    for rival, theirs in rivals:
        as_written = isinstance(rival, Naive) and rival.threads == DEFAULT_THREADS
        if rival.threads == one.threads or as_written:
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


def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        # Above the number of cores, others were at work too: absolute times are too long, ratios hold.
        "load_average": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = dict(line.split(":", 1) for line in lines if ":" in line)
    # x86 names the processor, a Raspberry Pi the board.
    by_key = {key.strip().lower(): value.strip() for key, value in named.items()}
    return by_key.get("model name") or by_key.get("model") or platform.processor()
