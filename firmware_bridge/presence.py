"""Whether a file was taken away, or only the disk that it lies on."""

from __future__ import annotations

import os
from pathlib import Path


class Presence:
    """Tells the two apart below a watched folder. What looks like a disk that is away counts as one.

    Args:
        watch: the watched folder.
    """

    def __init__(self, watch: Path) -> None:
        self._watch = watch

    def is_gone(self, path: Path) -> bool:
        """Whether the file is not there any more, in a folder that is.

        A mount point whose disk is away is an empty folder, or none. So a file is gone only if the nearest folder above
        it that is there holds something else; hidden entries do not count, ours are such.
        """
        if os.path.lexists(path):
            return False
        if not path.is_relative_to(self._watch):
            return True  # of the spool
        for folder in path.parents:
            if not folder.is_relative_to(self._watch):
                return False  # the watched folder itself is away
            try:
                with os.scandir(folder) as entries:
                    return any(not entry.name.startswith(".") for entry in entries)
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return False
