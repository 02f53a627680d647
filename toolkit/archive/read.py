"""The bytes of one X-ray, from a path or through fsspec, and what they hash to; a little ahead of who scores them."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from typing import Any

from firmware_bridge.decode import DEFAULT_LIMITS
from firmware_bridge.errors import (
    ConfigError,
    ImageError,
    ImageOutOfBounds,
    InputError,
    MissingExtraError,
    UnreadableImage,
)
from toolkit.archive.names import Item, what_came, without_secrets
from toolkit.archive.stores import is_known, open_files, resolved, store_of

_AHEAD = 4  # more hides more of a network's delay, and holds more files of up to 64 MiB
_TRIES = 3
_PAUSE_S = 2.0
_BUSY = (408, 425, 429, 502, 503, 504)
# Anything else that a remote file system raises may pass.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class Read:
    """A file as it was read: its bytes and their SHA-256 (hex), or the error that stands for them."""

    data: bytes
    sha256: str
    error: ImageError | None
    read_ms: float


class Reader:
    """Reads items for one worker.

    Args:
        storage: options of the fsspec file system.
        max_bytes: a larger file is not read.
    """

    def __init__(self, storage: Mapping[str, Any], *, max_bytes: int = DEFAULT_LIMITS.max_bytes) -> None:
        self._storage = dict(storage)
        self._max_bytes = max_bytes
        self._files: dict[Hashable, Any] = {}
        self._good: dict[str, str] = {}  # server or bucket -> an X-ray that could be read there
        self._pool = ThreadPoolExecutor(_AHEAD)

    def read_all(self, items: Sequence[Item]) -> Iterator[tuple[Item, Read]]:
        """Read `items` in their order, a few ahead.

        Raises:
            InputError: the place they come from does not answer.
        """
        waiting: deque[tuple[Item, Future[Read]]] = deque()
        for item in items:
            waiting.append((item, self._pool.submit(self.read, item)))
            if len(waiting) > _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()

    def read(self, item: Item) -> Read:
        """Read one.

        Raises:
            InputError: see `read_all`.
        """
        start_s = time.perf_counter()
        data, digest = b"", ""
        error: ImageError | None = None
        try:
            if item.problem:
                raise _unreadable(item.problem)
            data = self._remote(item.location) if "://" in item.location else _local(item.location, self._max_bytes)
            if len(data) > self._max_bytes:
                data = b""
                raise _too_large(f"more than {self._max_bytes} bytes", self._max_bytes)
            digest = hashlib.sha256(data).hexdigest()
        except ImageError as problem:
            error = problem
        return Read(data, digest, error, (time.perf_counter() - start_s) * 1e3)

    def _remote(self, location: str) -> bytes:
        server = location.split("/")[2]
        for turn in range(_TRIES):
            try:
                data = self._fetch(location)
            except (ConfigError, ImageError, MissingExtraError):
                raise
            except Exception as error:  # each file system has errors of its own: a timeout, a refused connection, ...
                # It could not be opened, or not read.
                met = error.__cause__ or error if isinstance(error, InputError) else error
                if _is_final(met):
                    raise _unreadable(what_came(met)) from error
                if turn == _TRIES - 1:
                    if _is_about_it(met) and self._answers(server):
                        came = f"{what_came(met)} in {_TRIES} tries, where another X-ray could be read"
                        raise _unreadable(came) from error
                    raise _no_answer(location, met) from error
                time.sleep(_PAUSE_S * 2**turn)
            else:
                self._good[server] = location
                return data
        raise AssertionError("unreachable")

    def _answers(self, server: str) -> bool:
        """Whether what could be read there before still can: then it is not the server that fails."""
        try:
            return server in self._good and len(self._fetch(self._good[server])) > 0
        except Exception:  # see `_remote`
            return False

    def _fetch(self, location: str) -> bytes:
        if not is_known(location):
            raise _unreadable("an address whose protocol is not known")
        try:
            store = store_of(location, self._storage)
        except ConfigError as error:  # one row of a list is wrong, and not the run
            raise _unreadable(f"an address that is none: {error.came}") from error
        if store not in self._files:
            files, path = open_files(location, self._storage)
            if files is None:
                return _local(path, self._max_bytes)
            self._files[store] = files
        with self._files[store].open(resolved(location, self._storage)[0], "rb", cache_type="none") as file:
            parts: list[bytes] = []
            left = self._max_bytes + 1
            # Without a length it comes as the network brings it: `read` gives what is there, not all that is asked for.
            while left > 0 and (part := bytes(file.read(left))):
                parts.append(part)
                left -= len(part)
            return b"".join(parts)


def _is_about_it(error: BaseException) -> bool:
    """Whether the server's answer may be about this X-ray: it is not away, nor says that it has too much to do."""
    status = getattr(error.__cause__ or error, "status", 0)
    # aiohttp's name for fewer bytes than were promised.
    return (status >= 400 and status not in _BUSY) or type(error).__name__ == "ClientPayloadError"


def _is_final(error: BaseException) -> bool:
    """Whether the file is not there or not ours. fsspec says so of a server that is down, too: its cause tells."""
    cause = error.__cause__
    down = isinstance(cause, OSError) and not isinstance(cause, _FINAL)
    status = getattr(cause, "status", 0)
    return isinstance(error, _FINAL) and not down and status < 500 and status not in _BUSY


def _local(path: str, max_bytes: int) -> bytes:
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb", buffering=0) as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise _unreadable("a folder, pipe or device")
            if status.st_size > max_bytes:
                raise _too_large(f"{status.st_size} bytes", max_bytes)
            return _all_of(file, status.st_size)
    except (OSError, ValueError) as error:
        raise _unreadable(_reason(error)) from error


def _all_of(file: FileIO, size: int) -> bytes:
    """So many bytes, fewer at the file's end: a network's file system may give less at once."""
    data = bytearray()
    while len(data) < size and (part := file.read(size - len(data))):
        data += part
    return bytes(data)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _unreadable(came: str) -> UnreadableImage:
    return UnreadableImage(
        "the file cannot be read",
        expected="a file that this user may read",
        came=came,
        do="mend its name, its permissions or the disk, then score with --retry-unreadable",
    )


def _too_large(came: str, max_bytes: int) -> ImageOutOfBounds:
    return ImageOutOfBounds(
        "the file is too large",
        expected=f"at most {max_bytes} bytes",
        came=came,
        do="export a single X-ray, compressed",
    )


def _no_answer(location: str, error: BaseException) -> InputError:
    place = without_secrets(location).rpartition("/")[0]
    return InputError(
        f"{place} does not answer",
        expected="the bytes of each X-ray",
        came=f"{what_came(error)[:200]} in {_TRIES} tries",
        do="mend the network or the server, then give the same command again: what is done stands",
    )
