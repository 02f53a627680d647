"""The way back of a switch, laid before it: it must hold on a full disk and after a power cut.

Going back is one rename of a link that is there already, which takes no room. That rename is the decision as well: a
switch that finds the link gone was rolling back when the power went, and goes on with that.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.release import point, switch
from firmware_bridge.files import sync_folder, write_atomically

# In an order: a link was laid for it. Orders of older code have none, and know nothing of it.
LAID = "back"
_NOTHING = "nothing"
_RESERVE, _RESERVE_BYTES = ".reserve", 65_536


def lay(layout: Layout, previous: str | None) -> None:
    """Lay the way back to `previous` (None: nothing ran), and keep some room for what is then to be told.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    # Random bytes: a file system that compresses would keep no room for zeros.
    write_atomically(layout.base / _RESERVE, os.urandom(_RESERVE_BYTES), mode=0o600)
    point(layout.back, f"releases/{previous}" if previous else _NOTHING)
    sync_folder(layout.base)


def is_taken(layout: Layout, order: Mapping[str, Any]) -> bool:
    """Whether it was decided to go back."""
    return order.get(LAID) is True and not layout.back.is_symlink()


def take(layout: Layout, previous: str | None) -> None:
    """Let `current` lead to what ran before (None: nowhere). Done again it does nothing.

    Raises:
        OSError: the disk cannot be written.
    """
    if previous and layout.linked_id(layout.back) == previous:
        layout.back.replace(layout.current)
        sync_folder(layout.base)
        return
    layout.back.unlink(missing_ok=True)
    sync_folder(layout.base)
    if layout.linked_id(layout.current) != previous or previous is None:
        switch(layout, layout.current, previous)


def free_reserve(layout: Layout) -> None:
    """Make room for the last words of a switch."""
    with contextlib.suppress(OSError):
        (layout.base / _RESERVE).unlink(missing_ok=True)


def drop(layout: Layout) -> None:
    """It is settled: there is nothing to go back from.

    Raises:
        OSError: the disk cannot be written.
    """
    layout.back.unlink(missing_ok=True)
    free_reserve(layout)
