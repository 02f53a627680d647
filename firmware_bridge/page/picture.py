"""The X-ray of a result as a small JPEG for the page, read from where the intake left it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np

from firmware_bridge.beside import OVERLAY_SUFFIX, json_path, path_beside
from firmware_bridge.decode import DEFAULT_LIMITS, decode
from firmware_bridge.errors import ImageError
from firmware_bridge.filing import DONE, REJECTED, id_in, places
from firmware_bridge.journal_reader import open_reader
from firmware_bridge.png import PNG_MAGIC
from firmware_bridge.reading import NoFile, NotFinished, read_file
from firmware_bridge.rename import free_name

LARGE_PX = 1000
SMALL_PX = 160
_MOST_CACHED_BYTES = 6 * 2**20
_QUALITY = 88
_MOST_OVERLAY_BYTES = 16 * 2**20


class Pictures:
    """Thread-safe; one picture is decoded at a time, so that looking never takes the pipeline's processor.

    Args:
        state: the state folder.
        watch: the watched folder: nothing outside of it is ever read.
    """

    def __init__(self, state: Path, watch: Path) -> None:
        self._state = state
        self._watch = watch
        self._cache: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def jpeg(self, result_id: str, longest_px: int) -> bytes | None:
        """The picture, or None: its file is gone, changed, or never was a picture.

        Raises:
            ConfigError: see `open_reader`.
            ResourceError: the journal cannot be read.
        """
        key = (result_id, longest_px)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            data = self._read(result_id, longest_px)
            if data is not None:
                self._cache[key] = data
                while sum(map(len, self._cache.values())) > _MOST_CACHED_BYTES:
                    self._cache.popitem(last=False)
            return data

    def overlay(self, result_id: str) -> bytes | None:
        """The PNG with the heat map that lies beside the X-ray, or None.

        Raises:
            ConfigError: see `open_reader`.
            ResourceError: the journal cannot be read.
        """
        for path in self._places(result_id)[0]:
            if id_in(json_path(path)) != result_id:  # an older picture of that name
                continue
            with contextlib.suppress(NoFile, NotFinished):
                data = read_file(path_beside(path, OVERLAY_SUFFIX), max_bytes=_MOST_OVERLAY_BYTES).data
                if data.startswith(PNG_MAGIC):
                    return data
        return None

    def _places(self, result_id: str) -> tuple[list[Path], str]:
        """Where the X-ray of a result may lie, and its SHA-256; no place where the journal knows none."""
        query = "SELECT seq, path, sha256, place FROM intake WHERE result_id=? ORDER BY seq DESC LIMIT 1"
        with open_reader(self._state) as journal:
            row = journal.execute(query, (result_id,)).fetchone()
        if row is None:
            return [], ""
        seq, path = str(row[0]), Path(os.fsdecode(row[1]))
        if not path.is_relative_to(self._watch):
            return [], ""
        _, *filed = places(path, self._watch, (DONE, REJECTED))
        known = [Path(os.fsdecode(row[3]))] if row[3] is not None else []
        return [*known, path, *filed, *(free_name(place, seq) for place in filed)], str(row[2])

    def _data(self, result_id: str) -> bytes | None:
        places, sha256 = self._places(result_id)
        for path in places:
            with contextlib.suppress(NoFile, NotFinished):
                contents = read_file(path, max_bytes=DEFAULT_LIMITS.max_bytes)
                # Another picture of the same name must not be shown for the one that was scored.
                if contents.error is None and contents.arrival.sha256 == sha256:
                    return contents.data
        return None

    def _read(self, result_id: str, longest_px: int) -> bytes | None:
        data = self._data(result_id)
        if data is None:
            return None
        try:
            pixels = decode(data, min_side_px=longest_px).pixels  # (H, W) uint8
        except ImageError:
            return None
        scale = min(1.0, longest_px / max(pixels.shape))
        if scale < 1.0:
            size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
            pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        good, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        return encoded.tobytes() if good else None
