"""What SOURCE means: a folder of X-rays, a CSV, or Parquet; here, or anywhere that fsspec reaches."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_bridge.errors import ConfigError, InputError
from toolkit.archive import lists
from toolkit.archive.names import Item, what_came, without_secrets
from toolkit.archive.stores import open_files, resolved, shown
from toolkit.archive.walk import Passed, cannot_read, walk_local, walk_remote
from toolkit.data.index import absolute

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER, CSV, PARQUET = "folder", "csv", "parquet"


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a source is read.

    Attributes:
        path_column: of a list.
        keep: columns of a list that results carry.
        root: what relative names of a list are taken from; empty: the folder of the list.
        storage: options of the fsspec file system; they may hold secrets and are stored nowhere.
    """

    path_column: str = "path"
    keep: tuple[str, ...] = ()
    root: str = ""
    storage: Mapping[str, Any] = field(default_factory=dict)


class Source:
    """An archive that can be listed, as often as one likes.

    Args:
        text: a path or an address.
        options: see there.

    Raises:
        InputError: it is not there, does not answer, or is nothing that is known.
        IndexFormatError: a list without its columns.
        ConfigError: an unknown protocol, or options that fit no folder.
        MissingExtraError: a package for the protocol is not installed.
    """

    def __init__(self, text: str, options: SourceOptions) -> None:
        if not text:  # a variable of the shell that is not set would have the working folder scored
            raise InputError("no source is named", expected="a path or an address", came="nothing", do="name one")
        self._options = options
        # Options for the workers, too: the names that a server of its own gives do not say which server that is.
        self.storage: dict[str, Any] = dict(options.storage)
        if "://" in text:
            text, self.storage = resolved(text, options.storage)
        self.files, self.path = open_files(text, self.storage)
        self.local = self.files is None
        self.kind = self._kind(text)
        self.name = self.path if self.local else shown(text, self.storage)
        if self.kind == FOLDER and (options.keep or options.root):
            raise ConfigError(
                "a folder has no columns",
                expected="--keep and --root with a list (CSV or Parquet)",
                came=f"the folder {self.name}",
                do="leave them out, or name a list",
            )
        self._dataset = (
            lists.parquet_list(self.path, self.files, column=options.path_column, keep=options.keep)
            if self.kind == PARQUET
            else None
        )
        if self.kind == CSV:
            next(self.items(Passed()), None)  # a column that is missing should be told now

    def _kind(self, text: str) -> str:
        name = self.path.rstrip("/").lower()
        if name.endswith(".parquet"):
            return PARQUET
        if name.endswith(".csv"):
            return CSV
        has_query = self.path.startswith(("http://", "https://")) and "?" in self.path  # no name can be put behind it
        if not has_query and (Path(self.path).is_dir() if self.local else self._is_remote_folder(text)):
            return FOLDER
        came = "a file" if self.local and Path(self.path).exists() else "no such folder"
        raise InputError(
            f"{shown(text, self.storage)} is nothing that can be scored",
            expected="a folder of X-rays, an index or other CSV (.csv), or a Parquet list (.parquet)",
            came="an address with a '?'" if has_query else came,
            do="check the path; for a single X-ray name its folder",
        )

    def _is_remote_folder(self, text: str) -> bool:
        try:
            return bool(self.files.isdir(self.path))
        except Exception as error:  # each file system has errors of its own
            raise cannot_read(shown(text, self.storage), "an address that answers", what_came(error)) from error

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this source and no other, for the results to remember; no secrets."""
        return {
            "kind": self.kind,
            "source": self.name,
            "path_column": "" if self.kind == FOLDER else self._options.path_column,
            "root": "" if self.kind == FOLDER else without_secrets(self._place().root),
        }

    def kept(self) -> list[pa.Field]:
        """The columns that results carry along, with their types."""
        import pyarrow as pa

        if self._dataset is not None:
            return lists.kept_fields(self._dataset, self._options.keep)
        return [pa.field(name, pa.string()) for name in self._options.keep]

    def items(self, passed: Passed, *, not_into: Path | None = None) -> Iterator[Item]:
        """All X-rays, one at a time.

        Raises:
            InputError: it cannot be read to its end.
        """
        column, keep = self._options.path_column, self._options.keep
        if self._dataset is not None:
            yield from lists.parquet_items(
                self._dataset, self._place(), list_name=self.name, column=column, keep=keep, passed=passed
            )
        elif self.kind == CSV:
            path = Path(self.path) if self.local else lists.local_copy(self.files, self.path)
            try:
                yield from lists.csv_items(path, self._place(), column=column, keep=keep, passed=passed)
            finally:
                if not self.local:
                    path.unlink(missing_ok=True)
        elif self.local:
            yield from walk_local(Path(self.path), passed, not_into=not_into)
        else:
            yield from walk_remote(self.files, self.path, passed)

    def count(self) -> int | None:
        """How many X-rays there are, listed once more; None where that fails. For the time left, not for the work."""
        if "host" in self.storage:
            return None  # the run itself uses that one connection
        # A thread of its own calls this: what else goes wrong there, the run itself will meet and tell.
        with suppress(Exception):
            if self._dataset is not None:
                return int(self._dataset.count_rows())
            return sum(1 for _ in self.items(Passed()))
        return None

    def _place(self) -> lists.Place:
        here = posixpath.dirname(self.path.rstrip("/"))
        if self.local:
            root = self._options.root or here
            return lists.Place(root if "://" in root else str(absolute(Path(root))))
        root = self._options.root or self.files.unstrip_protocol(here)
        return lists.Place(root, root.partition("://")[0])
