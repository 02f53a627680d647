from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from firmware_bridge.preprocess import Preprocessing
from toolkit.data.index import Index
from toolkit.data.load import load


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"\x93NUMPY"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, samples: Path, suffix: str, damage: bytes) -> None:
    rows, steps = Index.read(samples / "index.csv").rows[:3], Preprocessing.default(32)
    first = load(rows, steps, cache=tmp_path)
    (kept,) = tmp_path.glob("*" + suffix)
    kept.write_bytes(damage)
    again = load(rows, steps, cache=tmp_path)
    assert again.rows == first.rows
    assert np.array_equal(again.pixels, first.pixels)


def test_a_cache_of_fewer_pictures_is_not_taken_for_the_whole(tmp_path: Path, samples: Path) -> None:
    rows, steps = Index.read(samples / "index.csv").rows[:3], Preprocessing.default(32)
    load(rows, steps, cache=tmp_path)
    (kept,) = tmp_path.glob("*.npy")
    np.save(kept, np.load(kept)[:2])
    assert len(load(rows, steps, cache=tmp_path).pixels) == 3
