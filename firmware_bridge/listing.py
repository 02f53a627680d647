"""All files of a folder that may be ours to take, one at a time, however many there are."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from firmware_bridge.beside import is_taken_name

_LOG = logging.getLogger(__name__)


def files_below(
    folder: Path, *, not_into: frozenset[str], on_folder: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[Path, os.stat_result]]:
    """Regular files of names that are ours, with subfolders, without following links, one at a time.

    Args:
        folder: the watched one.
        not_into: subfolders of it that are passed over.
        on_folder: called with the inode of each subfolder that is looked into.

    Raises:
        OSError: `folder` itself cannot be read. Subfolders that cannot be read are passed over with a log line.
    """
    folders = [folder]
    while folders:
        here = folders.pop()
        try:
            entries = os.scandir(here)
        except OSError as error:
            if here == folder:
                raise
            _LOG.warning("a subfolder cannot be read: %s", error.strerror)
            continue
        with entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith(".") and not (here == folder and entry.name in not_into):
                            folders.append(Path(entry.path))
                            on_folder(
                                entry.stat(follow_symlinks=False).st_ino
                            )  # of what is mounted there, if anything is
                    elif entry.is_file(follow_symlinks=False) and is_taken_name(entry.name):
                        yield Path(entry.path), entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # renamed or removed since the folder was read; or too deep, or not ours to look at
