"""The results: a folder of Parquet files, each whole or not there. What is done stands in them and nowhere else.

results.parquet/part-000001-….parquet       what Arrow, pandas, DuckDB and Polars read as one table
results.parquet/_unreadable.parquet/part-…  what could not be read; readers pass over names with an underscore
results.parquet/_run.json                   of which source and bundle; the same command goes on, another is refused
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_bridge.errors import ConfigError, InputError
from firmware_bridge.files import sync_folder
from firmware_bridge.result import NOTICE, utc_now
from toolkit.archive.rows import SCHEMA, SCORED, Constants, Row, result_schema, table_of, unreadable_schema
from toolkit.archive.seen import Seen
from toolkit.data.index import printable
from toolkit.files import only_here, replacing, storing, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

UNREADABLE = "_unreadable.parquet"
RUN = "_run.json"
PART_ROWS = 50_000
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:/")  # a Path has one slash of "://" left
_ANOTHER_OUT = "wait for that run, or give another --out"


@dataclass(slots=True)
class Why:
    """How many X-rays of a run could not be read for one reason, and the first of them."""

    count: int
    path: str
    came: str


class Output:
    """The folder of results, for one run at a time; use it in a `with`.

    Args:
        folder: made where it is missing.
        identity: of source and bundle, as JSON; another one than the folder was begun with is refused.
        constants: the same in every row.
        kept: columns that the user keeps.
        commit_s: rows are written at least so often; a kill costs at most the work of that time.

    Raises:
        ConfigError: another run works in the folder, or it holds something else.
        InputError: a file of results is damaged.
        ResourceError: the disk is full, or the folder cannot be written, or is another one by now.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        constants: Constants,
        *,
        kept: Sequence[pa.Field] = (),
        commit_s: float = 60.0,
    ) -> None:
        self.folder = folder
        self.unreadable_folder = folder / UNREADABLE
        self.seen = Seen()
        self.scored = self.refused = self.unreadable = 0  # of this run
        self.unreadable_before = 0
        self.why: dict[str, Why] = {}
        self._identity, self._constants, self._commit_s = dict(identity), constants, commit_s
        self._schemas = {folder: result_schema(kept), self.unreadable_folder: unreadable_schema()}
        self._rows: dict[Path, list[Row]] = {folder: [], self.unreadable_folder: []}
        self._numbers = {folder: 0, self.unreadable_folder: 0}
        self._last_s = time.monotonic()
        self._entered = ExitStack()
        self._look: Callable[[], None] = lambda: None

    def __enter__(self) -> Output:
        if _ADDRESS.match(str(self.folder)):
            raise ConfigError(
                "results cannot be written to an address",
                expected="a folder on a disk or share of this machine",
                came=f"--out {self.folder}",
                do="name a folder here, and copy it there afterwards (a folder with a colon: its whole path)",
            )
        if self.folder.exists() and not self.folder.is_dir():
            raise _not_ours(self.folder, "a file")
        if self.folder.is_dir() and not (self.folder / RUN).exists():
            # A lock alone is what a run leaves that was killed in its first moment.
            for other in self.folder.iterdir():
                if not other.name.startswith(".") or other.is_dir():
                    raise _not_ours(self.folder, f"a folder with {printable(other.name)} in it, and no {RUN}")
        with ExitStack() as stack:
            self._look = stack.enter_context(only_here(self.folder, do=_ANOTHER_OUT))
            stack.callback(self.seen.close)
            self._same_run()
            self._entered = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    def _same_run(self) -> None:
        path = self.folder / RUN
        begun = {"schema": SCHEMA, **self._identity}
        if not path.exists():
            write_atomically(path, json.dumps({**begun, "begun": utc_now(), "notice": NOTICE}, indent=1) + "\n")
            return
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            differs = {name: there.get(name) for name, value in begun.items() if there.get(name) != value}
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise _not_ours(self.folder, f"a {RUN} that cannot be read ({error})") from error
        for name, was in differs.items():
            raise ConfigError(
                f"{self.folder} holds the results of another run",
                expected=f"{name} {begun[name]!r}, as asked for now",
                came=f"{name} {was!r}",
                do="give another --out, or the same source, bundle and options as then",
            )

    def resume(self, *, retry_unreadable: bool) -> int:
        """Take note of what is done; how many X-rays that is.

        Args:
            retry_unreadable: forget what could not be read, so that it is tried again.

        Raises:
            InputError: a file of results is damaged.
        """
        if retry_unreadable:
            with storing(self.unreadable_folder):
                for part in self._parts(self.unreadable_folder):
                    part.unlink()
        for folder in self._schemas:
            self.unreadable_before = -self.seen.count  # of the folder that comes last
            for part in self._parts(folder):
                for paths in _paths(part):
                    if self.seen.update(paths) < len(paths):
                        raise _damaged(part, "X-rays that another file there has, too: a copy")
                number = part.name.split("-")[1]
                self._numbers[folder] = max(self._numbers[folder], int(number) if number.isdecimal() else 0)
        self.unreadable_before += self.seen.count
        return self.seen.count

    def _parts(self, folder: Path) -> list[Path]:
        return sorted(folder.glob("part-*-*.parquet"))

    def add(self, row: Row, *, readable: bool) -> None:
        """Add the row of one X-ray; it is durable after the next `commit`."""
        self._rows[self.folder if readable else self.unreadable_folder].append(row)
        if not readable:
            self.unreadable += 1
            self.why.setdefault(row["what"], Why(0, row["path"], row["came"])).count += 1
        elif row["status"] == SCORED:
            self.scored += 1
        else:
            self.refused += 1

    def commit_if_due(self) -> None:
        """Write what has gathered, if it is much or old.

        Raises:
            ResourceError: the disk is full, or the folder cannot be written.
        """
        if time.monotonic() - self._last_s >= self._commit_s or any(len(r) >= PART_ROWS for r in self._rows.values()):
            self.commit()

    def commit(self) -> None:
        """Write what has gathered. Each X-ray is in one file alone, so that a kill between two files leaves no half.

        Raises:
            ResourceError: the disk is full, or the folder cannot be written.
        """
        for folder, rows in self._rows.items():
            if rows:
                self._write(folder, rows)
                rows.clear()
        self._last_s = time.monotonic()

    def complete(self) -> None:
        """Give a table without rows a file with its columns, so that whoever reads both tables always finds both.

        Raises:
            ResourceError: the disk is full, or the folder cannot be written.
        """
        for folder, number in self._numbers.items():
            if not number:
                self._write(folder, [])

    def _write(self, folder: Path, rows: Sequence[Row]) -> None:
        import pyarrow.parquet as pq

        self._look()
        self._numbers[folder] += 1
        part = folder / f"part-{self._numbers[folder]:06d}-{secrets.token_hex(4)}.parquet"
        table = table_of(rows, self._constants, self._schemas[folder])
        with replacing(part) as temporary:
            # Absolute: Arrow takes a relative name with a colon for an address.
            pq.write_table(table, temporary.absolute(), compression="zstd")
        with storing(part):
            sync_folder(folder)


def _paths(part: Path) -> Iterator[list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(part.absolute()) as file:
            if "path" not in file.schema_arrow.names or file.schema_arrow.field("path").type != pa.string():
                raise _damaged(part, "no column of paths")
            for batch in file.iter_batches(columns=["path"]):
                if batch.column(0).null_count:
                    raise _damaged(part, "rows without a path")
                yield batch.column(0).to_pylist()
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise _damaged(part, " ".join(str(error).split())[:200]) from error


def _damaged(part: Path, came: str) -> InputError:
    return InputError(
        f"{part} cannot be read",
        expected="a whole Parquet file of results",
        came=came,
        do="move it away and give the same command again: its X-rays are then scored anew",
    )


def _not_ours(folder: Path, came: str) -> ConfigError:
    return ConfigError(
        f"{folder} is not a place for results",
        expected="a folder that `cxr-edge score` made, or a name that is free",
        came=came,
        do="give another --out",
    )
