"""Where an X-ray and its JSON end up: where it was, in `done/`, or in `rejected/`; never over another file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.beside import OVERLAY_SUFFIX, Draft, json_path, path_beside, write_beside
from firmware_bridge.claims import Claims
from firmware_bridge.files import sync_folder
from firmware_bridge.rename import free_name, leads_through_link, move_new
from firmware_bridge.spool import Spool

DONE, REJECTED = "done", "rejected"
_MOST_JSON_BYTES = 1_000_000
# On another disk that is mounted below the watched folder, or somebody else's in a folder that keeps owners apart.
_UNMOVABLE = (errno.EXDEV, errno.EPERM, errno.EACCES)


@dataclass(frozen=True, slots=True)
class Filed:
    """What became of a file: whether it was moved, the folders whose entries changed, and where it lies if moved."""

    moved: bool
    folders: tuple[Path, ...]
    place: Path | None = None


@dataclass(frozen=True, slots=True)
class Drafted:
    """A file whose outcome is durable and whose JSON is drafted: to lie beside `target` if that is where it goes."""

    seq: int
    path: Path
    record: str
    target: Path | None
    draft: Draft | None


class Filing:
    """Files X-rays away when their outcome is durable.

    Args:
        watch: the watched folder.
        claims: tells where a file is at the moment.
        spool: its files are removed; nobody looks for a JSON beside them.
        moves: the folders in use, of DONE and REJECTED; what has none stays where it was.
    """

    def __init__(self, watch: Path, claims: Claims, spool: Spool, *, moves: frozenset[str]) -> None:
        self._watch = watch
        self._claims = claims
        self._spool = spool
        self._moves = moves
        self._identity = _identity(watch)

    def draft(self, seq: int, path: Path, record: str) -> Drafted:
        """Write the JSON where it is going to lie, under a temporary name, and do not wait for the disk.

        Raises:
            OSError: the folder is gone or read-only, or the disk is full.
        """
        if self._spool.holds(path):
            return Drafted(seq, path, record, None, None)
        if self._is_away() and not os.path.lexists(self._claims.where(path)):
            raise FileNotFoundError(errno.ENOENT, "the watched folder is away", str(self._watch))
        folder = REJECTED if is_refusal(record) else DONE
        if folder in self._moves and path.is_relative_to(self._watch):
            target = self._watch / folder / path.relative_to(self._watch)
            if not leads_through_link(target, self._watch):
                target.parent.mkdir(parents=True, exist_ok=True)
                return Drafted(seq, path, record, target, Draft(target, record))
        return Drafted(seq, path, record, None, Draft(path, record))

    def file(self, drafted: Drafted) -> Filed:
        """Give the JSON its name, then put the file where it belongs. Done again after a crash it ends up the same.

        Raises:
            OSError: see `draft`.
            ResourceError: a file of the spool cannot be removed.
        """
        path, draft = drafted.path, drafted.draft
        if draft is None:
            self._spool.discard(path)
            return Filed(True, (self._spool.folder,))
        try:
            if drafted.target is not None:
                with contextlib.suppress(_NotHere):
                    return self._move(drafted, draft, drafted.target)
                draft.drop()
                write_beside(path, drafted.record)
            else:
                draft.place(path)
        except OSError:
            draft.drop()
            raise
        folders = {path.parent, self._claims.where(path).parent}
        self._claims.release(path)
        return Filed(False, tuple(folders))

    def _move(self, drafted: Drafted, draft: Draft, target: Path) -> Filed:
        path, record = drafted.path, drafted.record
        source = self._claims.where(path)
        # The row's number first, so that a second try after a crash finds the name that the first one took.
        for name in (target, free_name(target, str(drafted.seq)), free_name(target)):
            if os.path.lexists(name) or _is_others(json_path(name), record):
                continue
            draft.place(name)
            try:
                move_new(source, name)
            except FileExistsError:
                draft.take_back(name)
                continue
            except FileNotFoundError:
                pass  # the X-ray is gone; its JSON tells what became of it
            except OSError as error:
                draft.take_back(name)
                if error.errno in _UNMOVABLE:
                    raise _NotHere from error
                raise
            with contextlib.suppress(FileNotFoundError):  # most results have no overlay
                path_beside(path, OVERLAY_SUFFIX).replace(path_beside(name, OVERLAY_SUFFIX))
            self._claims.forget(path)
            return Filed(True, (target.parent, source.parent), name)
        raise _NotHere

    def holds(self, path: Path) -> bool:
        """Whether the file came by a network into the spool: nothing is written beside it."""
        return self._spool.holds(path)

    def is_ours(self, path: Path) -> bool:
        """Whether the file came from the folder that is watched now, or into the spool."""
        return path.is_relative_to(self._watch) or self._spool.holds(path)

    def is_gone(self, path: Path) -> bool:
        """Whether the file was taken away, rather than its whole folder unmounted."""
        return not os.path.lexists(self._claims.where(path)) and not self._is_away()

    def _is_away(self) -> bool:
        return _identity(self._watch) != self._identity

    def known_elsewhere(self, path: Path, result_id: str) -> bool:
        """Whether another agent on this folder has scored the very same content: its JSON lies there."""
        if not path.is_relative_to(self._watch):
            return False
        return any(id_in(json_path(place)) == result_id for place in places(path, self._watch, self._moves))


class _NotHere(Exception):
    """It cannot be moved, or no name is free: it stays."""


def places(path: Path, watch: Path, folders: Iterable[str]) -> list[Path]:
    """Where a file that was taken at `path` may lie by now: there, or filed away into one of these folders."""
    if not path.is_relative_to(watch):
        return [path]
    return [path, *(watch / folder / path.relative_to(watch) for folder in folders)]


def is_refusal(record: str) -> bool:
    """Whether a record is a refusal: no score, but a reason."""
    return "refused" in json.loads(record)


def sync(filed: Iterable[Filed]) -> None:
    """Make renames durable: once for each folder, not for each file. A folder that went with its last file needs none.

    Raises:
        OSError: the disk is broken.
    """
    for folder in {folder for one in filed for folder in one.folders}:
        with contextlib.suppress(FileNotFoundError):
            sync_folder(folder)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def id_in(file: Path) -> str:
    """The id in a JSON that may be anybody's; "" when it is none of ours."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as opened:
            found = json.loads(opened.read(_MOST_JSON_BYTES))
    except (OSError, ValueError, RecursionError):
        return ""
    return str(found.get("id", "")) if isinstance(found, dict) else ""


def _is_others(file: Path, record: str) -> bool:
    """Whether there is a JSON that is not what an interrupted try of ours left."""
    return os.path.lexists(file) and id_in(file) != json.loads(record)["id"]
