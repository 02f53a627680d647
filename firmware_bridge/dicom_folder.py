"""The subfolder of the watched folder that X-rays from a network go into, where they are taken like any other file."""

from __future__ import annotations

import errno
import hashlib
import threading
from pathlib import Path

from firmware_bridge.disk import space_at
from firmware_bridge.errors import ConfigError
from firmware_bridge.files import sync_folder, write_atomically
from firmware_bridge.filing import DONE, REJECTED


class DicomFolder:
    """See the module. Thread-safe.

    Args:
        watch: the watched folder.
        name: of the subfolder.
        section: of the settings, for messages.

    Raises:
        ConfigError: nothing in a folder of that name would be scored.
    """

    def __init__(self, watch: Path, name: str, *, section: str) -> None:
        self._watch = watch
        self._section = section
        self.path = self._checked(name)
        self._mutex = threading.Lock()

    def _checked(self, name: str) -> Path:
        if Path(name).name != name or name.startswith(".") or not name or not name.isprintable():
            raise self._wrong("the name of a folder in the watched one, not hidden", repr(name))
        if name in (DONE, REJECTED):
            raise self._wrong("a folder that is looked into", f"{name!r}, where files go that are settled")
        if (self._watch / name).is_symlink():
            raise self._wrong("a folder of its own: links are not followed, so nothing in it would be scored", "a link")
        return self._watch / name

    def _wrong(self, expected: str, came: str) -> ConfigError:
        what = f"[{self._section}] folder cannot be used"
        return ConfigError(what, expected=expected, came=came, do="mend the config file")

    def put(self, uid: str, content: bytes) -> Path:
        """Write an X-ray; durable when it returns.

        Its name is made of hashes and tells neither patient nor study; the same X-ray again has the same one.

        Args:
            uid: its SOP Instance UID, or another name.
            content: the file. It is a part of the name: another picture under the same UID must not replace one that
                is not read yet.

        Raises:
            OSError: the folder cannot be written, or was replaced by a link.
        """
        digest = hashlib.sha256(content).hexdigest()
        path = self.path / f"{hashlib.sha256(uid.encode()).hexdigest()[:24]}-{digest[:16]}.dcm"
        if self.path.is_symlink():  # nobody follows it to look for X-rays
            raise OSError(errno.ELOOP, f"{self.path.name} in the watched folder is a link")
        with self._mutex:  # two senders of the same X-ray
            if not self.path.is_dir():
                self.path.mkdir(mode=0o700)
                sync_folder(self.path.parent)
            if not (path.is_file() and path.stat().st_size == len(content)):
                write_atomically(path, content, mode=0o600, temporary=path.with_name(f".{path.name}.part"))
        # Also for a file that was there: whoever wrote it may not have come to this yet.
        sync_folder(self.path)
        return path

    def is_full_with(self, more_bytes: int, *, reserve_mb: float | None, usual_mb: float) -> bool:
        """Whether so many bytes more would leave less free than wished.

        Args:
            more_bytes: of the X-ray.
            reserve_mb: what stays free; None: as much as `usual_mb` means on this disk, see `disk.Space`.
            usual_mb: that of [retention].
        """
        space = space_at(self._watch)
        least_bytes = space.least_free_bytes(usual_mb) if reserve_mb is None else reserve_mb * 1e6
        return space.free_bytes < least_bytes + more_bytes
