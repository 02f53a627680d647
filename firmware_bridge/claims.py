"""Two agents on one folder never score one file twice: whoever renames it first has it.

    WATCH/study/1.jpg  →  WATCH/.cxr-claimed/OWNER/study/1.jpg

rename(2) is atomic on one file system, also for two machines on one share: one of them succeeds, the other finds
nothing. The path below the owner's folder is the old one, so that anybody can put the file back.

The owner holds a lock on its folder (flock(2)) and renews a time stamp while it claims. What a dead agent held is put
back: its own at its next start, another's when the lock is free *and* the stamp is old. Both, because some network file
systems (sshfs) lock on each machine alone. An agent that was only asleep for so long may score a file a second time,
under the same result id.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from firmware_bridge.rename import free_name, leads_through_link, move_new

_LOG = logging.getLogger(__name__)
FOLDER = ".cxr-claimed"
_ALIVE = ".alive"
_STAMP_EVERY_S = 20.0
_MOST_HOMES = 20
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_IN_USE = (errno.EBUSY, errno.ETXTBSY)


class Lost(Exception):
    """The file is gone: another agent has it, or its owner took it away."""


class InUse(Exception):
    """Another program keeps the file from being renamed: it is not finished with it."""


class Claims:
    """The claims of one agent on one folder. Thread-safe.

    Args:
        watch: the watched folder, absolute.
        owner: a name that no other agent has; where one has it all the same (a cloned disk), a number is added.
        stale_s: the age of a stamp at which another agent counts as dead, if its lock is free too.
        problem: called with a text when files cannot be claimed, with None when they can again.
    """

    def __init__(self, watch: Path, owner: str, *, stale_s: float, problem: Callable[[str | None], None]) -> None:
        self._watch = watch
        self._root = watch / FOLDER
        self._owner = owner
        self._stale_s = stale_s
        self._problem = problem
        self._mutex = threading.RLock()
        self._home: Path | None = None
        self._lock: int | None = None
        self._stamped_s = 0.0
        self._closed = False
        self._held: dict[Path, Path] = {}
        self._owed: set[Path] = set()  # to be released, which did not work at first

    def claim(self, path: Path) -> Path:
        """Have the file for us alone; where it is from now on. Where nothing can be renamed, that is where it was.

        Raises:
            Lost: see there.
            InUse: see there.
        """
        with self._mutex:
            if path in self._held or not path.is_relative_to(self._watch):
                return self.where(path)
            if leads_through_link(path, self._watch):
                raise Lost  # it was not behind a link when it was found
            for attempt in range(3):
                try:
                    return self._claim(path)
                except FileNotFoundError as error:
                    # Our own folder may have gone, with the watched one or by another agent's tidying up.
                    if attempt == 2 or not os.path.lexists(path):
                        raise Lost from error
                    self._leave()
                except OSError as error:
                    if error.errno in _IN_USE:
                        raise InUse from error
                    self._problem(f"files cannot be claimed, so a second agent would score them too: {error.strerror}")
                    return path
        raise Lost

    def _claim(self, path: Path) -> Path:
        target = self._open_home() / path.relative_to(self._watch)
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):
            raise Lost  # an older file of that name is still with us
        try:
            os.rename(path, target)  # noqa: PTH104 - as os.lexists: bytes in, no second stat
        except FileNotFoundError:
            # NFS: a repeated request finds that the first one was carried out.
            if not os.path.lexists(target):
                raise
        self._held[path] = target
        self._stamp()
        self._problem(None)
        return target

    def where(self, path: Path) -> Path:
        """Where the file of that name is: with us, or where it always was."""
        return self._held.get(path, path)

    def holds(self, path: Path) -> bool:
        """Whether we have claimed the file."""
        return path in self._held

    def forget(self, path: Path) -> None:
        """The file has been moved on from where we had it."""
        with self._mutex:
            self._held.pop(path, None)

    def release(self, path: Path) -> None:
        """Put the file back. If a new one has come under its name, it gets a name beside it.

        Raises:
            OSError: the folder is gone.
        """
        with self._mutex:
            held = self._held.get(path)
            if held is None:
                return
            self._owed.add(path)
            with contextlib.suppress(FileNotFoundError):  # somebody took it out of our folder
                self._put_back(held, path)
            self._held.pop(path, None)
            self._owed.discard(path)

    def put_back(self, *, keep: Collection[Path] = ()) -> int:
        """Put back what an earlier run of ours held when it died; how many files.

        Those of `keep` stay with us, under their paths: they are scored, and another agent that found one of them
        before its JSON lies there would score it again.

        A folder that cannot be read or written is passed over: nothing was claimed in it.
        """
        with self._mutex:
            if not self._root.is_dir() or self._root.is_symlink():
                return 0
            try:
                return self._empty(self._open_home(), keep=keep)
            except OSError as error:
                _LOG.warning("claims cannot be looked at: %s", error.strerror)
                return 0

    def tidy(self) -> None:
        """Put back what other agents held that are dead, and what we could not put back before."""
        with self._mutex:
            try:
                for path in list(self._owed):
                    self.release(path)
                homes = [entry for entry in self._root.iterdir() if entry.is_dir() and not entry.is_symlink()]
                for home in homes:
                    if home != self._home:
                        self._adopt(home)
            except OSError:
                return  # no claims, or none that we could put back

    def held_by_others(self, path: Path) -> bool:
        """Whether another agent has claimed a file of that name."""
        if not path.is_relative_to(self._watch):
            return False
        below = path.relative_to(self._watch)
        try:
            return any(home != self._home and os.path.lexists(home / below) for home in self._root.iterdir())
        except OSError:
            return False

    def close(self) -> None:
        """Put everything back and leave nothing behind. What cannot be put back now is, at the next start."""
        with self._mutex:
            for path in list(self._held):
                with contextlib.suppress(OSError):
                    self.release(path)
            self._closed = True
            home = self._home
            if home is not None:
                with contextlib.suppress(OSError):
                    _remove_empty_below(home)
                    if [entry.name for entry in home.iterdir()] == [_ALIVE]:
                        (home / _ALIVE).unlink()
                        home.rmdir()
                        self._root.rmdir()
            self._leave()

    def _adopt(self, home: Path) -> None:
        stamp = home / _ALIVE
        try:
            age_s = self._server_now_s() - stamp.stat().st_mtime
        except FileNotFoundError:
            age_s = self._server_now_s() - home.stat().st_mtime
        if age_s < self._stale_s:
            return
        lock = _locked(stamp)
        if lock is None:
            return
        try:
            count = self._empty(home)
            stamp.unlink(missing_ok=True)
            home.rmdir()
        finally:
            os.close(lock)
        _LOG.warning("an agent that is gone (%s) had claimed %d files; they are put back", home.name, count)

    def _server_now_s(self) -> float:
        """The time by the clock that also made the stamps: the file server's, which need not be ours."""
        stamp = self._open_home() / _ALIVE
        os.utime(stamp)
        return stamp.stat().st_mtime

    def _empty(self, home: Path, *, keep: Collection[Path] = ()) -> int:
        count = 0
        for held in list(_files_below(home)):
            path = self._watch / held.relative_to(home)
            if path in keep:
                self._held[path] = held
                continue
            self._put_back(held, path)
            count += 1
        _remove_empty_below(home)
        return count

    def _put_back(self, held: Path, path: Path) -> None:
        if leads_through_link(path, self._watch):
            path = free_name(self._watch / path.name)
        try:
            try:
                move_new(held, path)
            except FileNotFoundError:
                if not os.path.lexists(held):
                    raise
                path.parent.mkdir(parents=True, exist_ok=True)  # the study's folder was removed meanwhile
                move_new(held, path)
        except FileExistsError:
            move_new(held, free_name(path))

    def _open_home(self) -> Path:
        if self._home is not None:
            return self._home
        if self._closed:
            raise OSError(errno.EBADF, "the agent has stopped")
        if self._root.is_symlink():  # somebody would have us move X-rays to where he likes
            raise OSError(errno.ELOOP, f"{FOLDER} is a link")
        for number in range(1, _MOST_HOMES):
            home = self._root / (self._owner if number == 1 else f"{self._owner}-{number}")
            self._root.mkdir(exist_ok=True)  # never the watched folder itself: it may be unmounted
            home.mkdir(exist_ok=True)
            if home.is_symlink():
                raise OSError(errno.ELOOP, f"a folder in {FOLDER} is a link")
            lock = _locked(home / _ALIVE)
            if lock is not None:
                self._home, self._lock, self._stamped_s = home, lock, time.monotonic()
                return home
        raise OSError(errno.EBUSY, "too many agents of one name")

    def _leave(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._home = self._lock = None

    def _stamp(self) -> None:
        now_s = time.monotonic()
        if self._lock is not None and now_s - self._stamped_s > _STAMP_EVERY_S:
            self._stamped_s = now_s
            os.utime(self._lock)


def _locked(stamp: Path) -> int | None:
    """Open and lock the file; None when a living agent has it."""
    handle = os.open(stamp, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_nlink == 0:  # removed by its last owner meanwhile: begin again
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(stamp))
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return handle
        os.close(handle)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return None
        raise
    return handle


def _files_below(home: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(home):
        yield from (Path(folder) / name for name in names if Path(folder) != home or name != _ALIVE)


def _remove_empty_below(home: Path) -> None:
    for folder, _, _ in os.walk(home, topdown=False):
        if Path(folder) != home:
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(folder)  # noqa: PTH106 - text in, as os.walk gives it
