"""What lies in the watched folder is taken for an X-ray: read, refused, and moved away. Our own files must not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from firmware_bridge.beside import is_taken_path
from firmware_bridge.errors import ConfigError


def check_apart(watch: Path, ours: Mapping[str, Path | None]) -> None:
    """See that nothing of ours lies where files are taken.

    Args:
        watch: the watched folder, resolved.
        ours: what it is -> where; None: there is none.

    Raises:
        ConfigError: it lies there.
    """
    for kind, path in ours.items():
        if path is None:
            continue
        found = path.resolve()
        # The folder itself is hidden from nobody, whatever its name is.
        if found == watch or (found.is_relative_to(watch) and is_taken_path(found.relative_to(watch))):
            raise ConfigError(
                f"the {kind} {path} lies in the watched folder",
                expected="a place outside, or a hidden one",
                came="a place where every file is taken for an X-ray",
                do="move it, or watch a folder that holds X-rays alone",
            )
