"""Score an archive: list, skip what is done, score, write; whatever ends it, the same command goes on."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from firmware_bridge.bundle import open_bundle
from firmware_bridge.result import NOTICE
from firmware_bridge.shipped import bundle_path
from toolkit.archive.dispatch import dispatch, listed_ahead
from toolkit.archive.engine import Engine, Inline
from toolkit.archive.names import Item
from toolkit.archive.output import Output
from toolkit.archive.processes import Processes
from toolkit.archive.rows import Constants
from toolkit.archive.seen import Seen
from toolkit.archive.source import Source, SourceOptions
from toolkit.archive.walk import Passed
from toolkit.archive.work import Setup
from toolkit.extras import require_modules
from toolkit.interrupt import remembering_interrupts
from toolkit.memory import resident_bytes
from toolkit.progress import progress

LOCAL, RAY = "local", "ray"


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """How an archive is scored.

    Attributes:
        bundle: None: the one that ships.
        precision: of the model; None: the bundle's default.
        refuse_outside: whether X-rays outside the training population get no score.
        engine: "local" or "ray".
        workers: None: one for each core, here or of the cluster. 0: this process itself.
        ray_address: of a cluster; empty: one of this machine's own, for this run.
        commit_s: rows are written at least so often.
        retry_unreadable: try again what could not be read before.
        source: how the source is read.
    """

    bundle: Path | None = None
    precision: str | None = None
    refuse_outside: bool = False
    engine: str = LOCAL
    workers: int | None = None
    ray_address: str = ""
    commit_s: float = 60.0
    retry_unreadable: bool = False
    source: SourceOptions = field(default_factory=SourceOptions)


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """What a run did.

    Attributes:
        unreadable_table: empty where it has no rows.
        before: X-rays that were done when it began, `unreadable_before` of them unreadable.
        why_unreadable: for each reason how many X-rays of this run, and the path of the first and what it was.
        repeated: rows of a list that name an X-ray again.
        seconds: from the first task to the last row.
        per_s: X-rays of this run in a second.
        driver_cpu_s: processor time of the process that lists, hands out and writes: what bounds a large cluster.
        memory_mb: of that process, at the end.
    """

    out: str
    unreadable_table: str
    before: int
    unreadable_before: int
    scored: int
    refused: int
    unreadable: int
    why_unreadable: dict[str, dict[str, Any]]
    repeated: int
    passed_over: dict[str, int]
    seconds: float
    per_s: float
    driver_cpu_s: float
    memory_mb: float | None
    bundle_id: str
    notice: str = NOTICE

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def score_archive(text: str, out: Path, options: ScoreOptions) -> ScoreSummary:
    """Score every X-ray of an archive that `out` does not have yet.

    Args:
        text: the source: a path or an address.
        out: folder of the results.
        options: see there.

    Raises:
        InputError: the source cannot be read, or stops answering.
        ConfigError: `out` belongs to another run, or an option does not fit.
        BundleError, ModelError: the bundle cannot be used.
        ResourceError: the disk is full, or workers have no memory.
        ClusterError: Ray cannot be reached, or is gone.
        MissingExtraError: Parquet, Ray or a protocol's package is not installed.
        KeyboardInterrupt: Ctrl-C; what was finished is written.
    """
    require_modules("pyarrow", "fsspec", extra="archive")
    if options.engine == RAY:
        require_modules("ray", extra="ray")
    source = Source(text, options.source)
    setup, constants = _prepare(options, source.storage)
    identity = {
        **source.identity,
        "keep": list(options.source.keep),
        "bundle_id": constants.bundle_id,
        "precision": constants.precision,
        "refuse_outside": options.refuse_outside,
    }
    kept = source.kept()
    with Output(out, identity, constants, kept=kept, commit_s=options.commit_s) as output, remembering_interrupts():
        before = output.resume(retry_unreadable=options.retry_unreadable)
        listing = _Listing(source, output.seen, not_into=out.absolute())
        start_s, start_cpu_s = time.monotonic(), _cpu_s()
        with closing(_engine(options, setup, text)) as engine:
            _score(listing, engine, output, kept=[one.name for one in kept])
        output.complete()
        seconds = time.monotonic() - start_s
        return ScoreSummary(
            out=str(out),
            unreadable_table=str(output.unreadable_folder) if output.unreadable_before + output.unreadable else "",
            before=before,
            unreadable_before=output.unreadable_before,
            scored=output.scored,
            refused=output.refused,
            unreadable=output.unreadable,
            why_unreadable={what: asdict(why) for what, why in output.why.items()},
            repeated=max(0, listing.skipped - before),
            passed_over=asdict(listing.passed),
            seconds=round(seconds, 2),
            per_s=round((output.scored + output.refused + output.unreadable) / seconds, 2),
            driver_cpu_s=round(_cpu_s() - start_cpu_s, 2),
            memory_mb=None if (held := resident_bytes()) is None else round(held / 1e6, 1),
            bundle_id=constants.bundle_id,
        )


def _prepare(options: ScoreOptions, storage: Mapping[str, Any]) -> tuple[Setup, Constants]:
    path = bundle_path(options.bundle)
    with open_bundle(path) as bundle:
        entry = bundle.manifest.model(options.precision)
        constants = Constants(
            bundle_id=bundle.id,
            bundle_name=bundle.manifest.name,
            model_file=entry.file,
            precision=entry.precision,
            label_positive=bundle.manifest.label_positive,
            threshold=entry.calibration.threshold,
        )
    setup = Setup(
        path.read_bytes(),  # checked against the id by whoever loads it
        constants.bundle_id,
        options.precision,
        options.refuse_outside,
        storage,
    )
    return setup, constants


def _engine(options: ScoreOptions, setup: Setup, text: str) -> Engine:
    if (options.workers == 0 and options.engine == LOCAL) or text.startswith("memory://"):
        return Inline(setup)
    if options.engine == RAY:
        from toolkit.archive.ray_engine import RayEngine

        return RayEngine(setup, workers=options.workers, address=options.ray_address)
    return Processes(setup, workers=options.workers or cores())


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


class _Listing:
    """The items that are still to do, and what was passed over on the way to them."""

    def __init__(self, source: Source, seen: Seen, *, not_into: Path) -> None:
        self.passed = Passed()
        self.skipped = 0
        self._source, self._seen, self._not_into = source, seen, not_into

    def to_do(self) -> Iterator[Item | None]:
        """Each X-ray that is not done, once; None as from `listed_ahead`."""
        for item in listed_ahead(self._source.items(self.passed, not_into=self._not_into)):
            if item is None or self._seen.add(item.path):
                yield item
            else:
                self.skipped += 1

    def counted(self) -> Callable[[], int | None]:
        """How many X-rays there are in all: None until a thread of its own has counted them."""
        found: list[int | None] = [None]

        def count() -> None:
            found[0] = self._source.count()

        threading.Thread(target=count, name="counting", daemon=True).start()
        return lambda: found[0]


def _score(listing: _Listing, engine: Engine, output: Output, *, kept: list[str]) -> None:
    before = output.seen.count
    total = listing.counted()

    def left() -> int | None:
        return None if (count := total()) is None else max(0, count - before)

    def rows() -> Iterator[int]:
        for finished in dispatch(listing.to_do(), engine):
            for item, scored in finished:
                row = {**scored.row, **dict(zip(kept, item.kept, strict=True))} if scored.readable else scored.row
                output.add(row, readable=scored.readable)
            output.commit_if_due()
            yield len(finished)

    try:
        for _ in progress(rows(), "scoring", total=left, size=int):
            pass
    finally:
        # What is finished is kept, whatever ended the run. (A full disk fails here again, and the first error is told.)
        output.commit()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
