"""Images that came by a network: on disk and in the journal before their sender is told that we have them."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.disk import Disk
from firmware_bridge.errors import ResourceError
from firmware_bridge.files import sync_folder, write_atomically
from firmware_bridge.intake import Intake
from firmware_bridge.journal import Arrival, Journal, ReplyTo

_LOG = logging.getLogger(__name__)
FOLDER = "spool"
_SUFFIX = ".image"
_MOST_WAITING = 1000


@dataclass(frozen=True, slots=True)
class Submitted:
    """An image that is safe with us. `seq` is its row in the journal."""

    path: Path
    seq: int
    sha256: str


class Spool:
    """The folder `STATE/spool`. Thread-safe.

    A file lives there from `submit` until its outcome is durable; the answer is then a row in the journal
    (`Journal.unsent_replies`).

    Args:
        state: the state folder.
        journal: open.
        intake: is told of each file.
        disk: nothing is taken while it is nearly full.
        on_change: called after each submission.

    Raises:
        ResourceError: the folder cannot be made.
    """

    def __init__(
        self, state: Path, journal: Journal, intake: Intake, *, disk: Disk | None = None, on_change: Callable[[], None]
    ) -> None:
        self._disk = disk
        self.folder = state / FOLDER
        self._journal = journal
        self._intake = intake
        self._on_change = on_change
        self._waiting: set[Path] = set()  # submitted and not accounted for: a backlog of the folder does not count
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _cannot(self.folder, error) from error

    def submit(self, data: bytes, *, kind: str, reply: ReplyTo | None) -> Submitted:
        """Take an image; when this returns it survives a power cut, and its sender may be told so.

        Args:
            data: an image file's bytes; whether they are one is found out later, and is part of the answer.
            kind: the network it came by ("mqtt"): `Journal.unsent_replies` is asked with the same word.
            reply: where the answer goes; None: nobody waits for one.

        Raises:
            ResourceError: the disk is full or broken; nothing was taken.
        """
        if self._disk is not None and not self._disk.has_room:
            raise _cannot(self.folder, OSError(errno.ENOSPC, "the disk is nearly full"))
        path = self.folder / f"{secrets.token_hex(16)}{_SUFFIX}"
        try:
            # Neither the name nor the folder tells anything of the patient.
            write_atomically(path, data, mode=0o600)
            sync_folder(self.folder)
            status = path.stat()
        except OSError as error:
            raise _cannot(path, error) from error
        digest = hashlib.sha256(data).hexdigest()
        try:
            arrival = Arrival(path, digest, status.st_size, status.st_mtime_ns)
            (row,) = self._journal.take([arrival], reply=reply, kind=kind)
        except BaseException:
            self.discard(path)
            raise
        self._waiting.add(path)
        self._intake.offer(path)
        self._on_change()
        return Submitted(path, row.seq, digest)

    @property
    def has_room(self) -> bool:
        """Whether more may be submitted; otherwise leave it with the sender for a while."""
        return len(self._waiting) < _MOST_WAITING and (self._disk is None or self._disk.has_room)

    def holds(self, path: Path) -> bool:
        """Whether that file is one of ours."""
        return path.parent == self.folder

    def discard(self, path: Path) -> None:
        """The file is accounted for.

        Raises:
            ResourceError: it cannot be removed.
        """
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _cannot(path, error) from error
        self._waiting.discard(path)

    def tidy(self) -> None:
        """Remove what a crash left before the journal had it: its sender was not told that we have it.

        Raises:
            ResourceError: see `discard`.
        """
        open_paths = {os.fsencode(row.path) for row in self._journal.open_intakes(limit=-1)}
        for path in self.folder.iterdir():
            if os.fsencode(path) in open_paths:
                self._waiting.add(path)
            else:
                self.discard(path)


def _cannot(path: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"{path} cannot be written",
        expected="a state folder that this user can write, with some space, on a local disk",
        came=error.strerror or str(error),
        do="free some space or mend the disk; what was taken before is safe",
    )
