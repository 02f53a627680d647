"""The agent's two folders: the one that it watches, and where its state lies."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from firmware_bridge.errors import ConfigError


def watched_folder(told: Path | None) -> Path:
    """The folder that `[agent] watch` names, absolute.

    Raises:
        ConfigError: none is named, or there is no such folder.
    """
    if told is None:
        raise ConfigError(
            "--watch is missing",
            expected="--watch, CXR_EDGE_WATCH, or watch in the section [agent] of --config",
            came="none of them",
            do="add --watch",
        )
    try:
        watch = told.resolve()
    except (OSError, RuntimeError):  # links in a loop: which of the two depends on the version of Python
        watch = told
    if not watch.is_dir():
        raise ConfigError(
            f"the folder {told} cannot be watched",
            expected="a folder",
            came="a file" if watch.exists() else "nothing of that name",
            do="make the folder, or mend --watch",
        )
    return watch


def default_state(watch: Path) -> Path:
    """Where the journal lies: systemd's STATE_DIRECTORY, else below the user's state folder, one for each `watch`."""
    managed = os.environ.get("STATE_DIRECTORY", "")
    if managed:
        return Path(managed.split(":")[0])
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return base / "cxr-edge" / hashlib.sha256(os.fsencode(watch)).hexdigest()[:16]
