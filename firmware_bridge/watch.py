"""The kernel's word about a folder: watchdog's inotify observer, reduced to "this file is finished"."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from firmware_bridge.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver


_WATCHDOG = logging.getLogger("watchdog.observers.inotify")


class FolderWatch:
    """Calls `tell` with each file that was closed after writing or moved in; with None where only a new look can tell.

    Args:
        folder: watched with its subfolders.
        tell: called in a thread of the observer; must not raise and must not block.
    """

    def __init__(self, folder: Path, tell: Callable[[Path | None], None]) -> None:
        self._folder = folder
        self._tell = tell
        self._observer: BaseObserver | None = None
        self._inode: tuple[int, int] | None = None
        self._overflow = _Overflow(lambda: tell(None))

    def start(self) -> None:
        """Start watching; a folder that is away is watched once `renew` finds it.

        Raises:
            ConfigError: this system has no inotify.
            ResourceError: too many watches.
        """
        try:
            from watchdog.events import (
                DirCreatedEvent,
                DirMovedEvent,
                FileClosedEvent,
                FileMovedEvent,
                FileSystemEventHandler,
            )
            from watchdog.observers.inotify import InotifyObserver
        except ImportError as error:
            raise ConfigError(
                "the kernel cannot be asked about files here",
                expected="Linux with inotify",
                came=str(error),
                do="use --poll SECONDS",
            ) from error

        tell = self._on_event
        self._overflow.listen()

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                tell(event)

        try:
            self._inode = self._look()
            # Full events: without them a file moved in looks like one just created, which may be empty still.
            observer = InotifyObserver(generate_full_events=True)
            # Nothing else: each of our own reads would come back as two more events.
            wanted = [FileClosedEvent, FileMovedEvent, DirCreatedEvent, DirMovedEvent]
            observer.schedule(Handler(), str(self._folder), recursive=True, event_filter=wanted)
            observer.start()
            self._observer = observer
        except FileNotFoundError:
            self._inode = None
        except OSError as error:
            raise ResourceError(
                "the folder cannot be watched",
                expected="a free inotify watch for each subfolder",
                came=error.strerror or str(error),
                do="raise the sysctl fs.inotify.max_user_watches, or use --poll SECONDS",
            ) from error

    @property
    def inode(self) -> int | None:
        """Of the folder that is watched."""
        return self._inode[1] if self._inode else None

    def stop(self) -> None:
        """Stop watching."""
        self._overflow.ignore()
        if self._observer is not None:
            _WATCHDOG.addFilter(_is_news)
            try:
                self._observer.stop()
                self._observer.join(5.0)
            finally:
                _WATCHDOG.removeFilter(_is_news)
            self._observer = None

    def renew(self) -> bool:
        """Watch again if the folder is not the one that was watched (removed, mounted); True if that was so."""
        try:
            inode = self._look()
        except OSError:
            inode = None
        if inode == self._inode:
            return False
        self.stop()
        self._inode = None
        if inode is not None:
            self.start()
        return True

    def _look(self) -> tuple[int, int]:
        status = self._folder.stat()
        return status.st_dev, status.st_ino

    def _on_event(self, event: FileSystemEvent) -> None:
        if event.is_directory:
            # Files may have come into a new folder before it was watched.
            if event.event_type in ("created", "moved"):
                self._tell(None)
        elif event.event_type == "closed":
            self._tell(Path(os.fsdecode(event.src_path)))
        elif event.event_type == "moved" and event.dest_path:
            self._tell(Path(os.fsdecode(event.dest_path)))


def _is_news(record: logging.LogRecord) -> bool:
    """False for what watchdog 7.1 says of its own thread when an event comes while that is being stopped."""
    return "when the thread is inactive" not in record.getMessage()


class _Overflow(logging.Handler):
    """Tells when the kernel dropped events (inotify(7), IN_Q_OVERFLOW): watchdog says so in its log, and only there."""

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell_all_lost = tell
        self._logger = logging.getLogger("watchdog.observers")

    def listen(self) -> None:
        """From now on."""
        self._logger.addHandler(self)

    def ignore(self) -> None:
        """No longer."""
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """One line of watchdog's log."""
        if "overflow" in record.getMessage().lower():
            self._tell_all_lost()
