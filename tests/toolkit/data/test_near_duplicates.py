from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from firmware_bridge.decode import decode
from toolkit.data.index import Index
from toolkit.data.near_duplicates import (
    HASH_BITS,
    SAME_PICTURE,
    find_candidates,
    is_flat,
    perceptual_hashes,
    similarity,
    thumbnail,
    verify,
)

Grey = npt.NDArray[np.uint8]


def compressed(pixels: Grey) -> Grey:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 0), np.uint8)


def lettered(pixels: Grey) -> Grey:
    out = pixels.copy()
    cv2.putText(out, "L PORTABLE", (8, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2)
    return out


def moved(pixels: Grey, *, degrees: float, shift_px: float) -> Grey:
    height, width = pixels.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    turn[:, 2] = turn[:, 2] + shift_px
    return np.asarray(cv2.warpAffine(pixels, turn, (width, height)), np.uint8)


CHANGES: dict[str, Callable[[Grey], Grey]] = {
    "compressed": compressed,
    "half size": lambda p: np.asarray(cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8),
    "squashed": lambda p: np.asarray(cv2.resize(p, (224, 224), interpolation=cv2.INTER_AREA), np.uint8),
    "darker": lambda p: (255 * (p / 255) ** 1.5).astype(np.uint8),
    "CLAHE": lambda p: np.asarray(cv2.createCLAHE(2.0, (8, 8)).apply(p), np.uint8),
    "lettered": lettered,
    "cropped": lambda p: p[3:-3, 4:-4],
    "turned": lambda p: moved(p, degrees=1, shift_px=0),
    "shifted": lambda p: moved(p, degrees=0, shift_px=3),
}


@pytest.fixture(scope="session")
def pictures(samples: Path) -> list[Grey]:
    return [decode(row.path).pixels for row in Index.read(samples / "index.csv")]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_among_different_chests(pictures: list[Grey], change: str) -> None:
    copies = [CHANGES[change](picture) for picture in pictures[::2]]
    every = np.stack([thumbnail(np.ascontiguousarray(p)) for p in (*pictures, *copies)])
    candidates = find_candidates(perceptual_hashes(every))
    found = {(near.a, near.b) for near in verify(every, ((int(a), int(b)) for a, b in candidates.pairs))}
    wanted = {(2 * i, len(pictures) + i) for i in range(len(copies))}
    assert not found - wanted, "two different chests were taken for one"
    assert len(found) >= len(wanted) - 1


def test_no_two_samples_are_alike(pictures: list[Grey]) -> None:
    small = [thumbnail(picture) for picture in pictures[::3]]
    likeness = [similarity(a, b) for i, a in enumerate(small) for b in small[:i]]
    assert max(likeness) < SAME_PICTURE - 0.1


def test_an_empty_picture_is_flat_and_one_is_like_itself(pictures: list[Grey]) -> None:
    assert is_flat(np.zeros((64, 64), np.uint8))
    small = thumbnail(pictures[0])
    assert not is_flat(small)
    assert similarity(small, small) == pytest.approx(1.0, abs=1e-3)


def test_all_close_hashes_are_found_as_brute_force_finds_them() -> None:
    rng = np.random.default_rng(5)
    centres = rng.integers(0, 2, (40, HASH_BITS), dtype=np.uint8)
    bits = np.repeat(centres, 5, axis=0) ^ (rng.random((200, HASH_BITS)) < 0.05)
    hashes = np.packbits(bits.astype(np.uint8), axis=1).view(np.uint16)
    distance = (bits[:, None, :] != bits[None, :, :]).sum(axis=2)
    wanted = {(i, j) for i in range(200) for j in range(i + 1, 200) if distance[i, j] <= 31}
    candidates = find_candidates(hashes, radius_bits=31)
    assert set(map(tuple, candidates.pairs.tolist())) == wanted
    found = distance[candidates.pairs[:, 0], candidates.pairs[:, 1]]
    assert (np.diff(found) >= 0).all(), "nearest first"


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_hashes(n: int) -> None:
    assert find_candidates(np.zeros((n, 16), np.uint16)).pairs.tolist() == [[0, 1]] * (n == 2)


def test_a_hundred_thousand_hashes_without_comparing_all_pairs() -> None:
    n, planted = 100_000, 1_000
    rng = np.random.default_rng(11)
    bits = rng.integers(0, 2, (n, HASH_BITS), dtype=np.uint8)
    twins = rng.permutation(n)[: 2 * planted].reshape(planted, 2)
    for i, (a, b) in enumerate(twins):
        bits[b] = bits[a]
        bits[b, rng.choice(HASH_BITS, i % 32, replace=False)] ^= 1  # 0 to 31 bits apart: what is promised for certain
    candidates = find_candidates(np.packbits(bits, axis=1).view(np.uint16))
    assert set(map(tuple, candidates.pairs.tolist())) >= {(min(a, b), max(a, b)) for a, b in twins.tolist()}
    assert len(candidates.pairs) < planted + 100
    assert candidates.compared < 0.02 * n * (n - 1) / 2


def test_a_cluster_of_copies_is_linked_without_looking_at_all_its_pairs(pictures: list[Grey]) -> None:
    every = np.stack([thumbnail(pictures[0])] * 30)
    candidates = find_candidates(perceptual_hashes(every))
    assert len(candidates.pairs) == 435
    assert len(verify(every, ((int(a), int(b)) for a, b in candidates.pairs))) == 29


def test_the_listed_pairs_of_all_real_sets_are_found(big_data: Path) -> None:
    folders = {}
    for name in ("kermany", "nih", "ieee8023"):
        with (big_data / name / "manifest.csv").open(encoding="utf-8", newline="") as file:
            folders.update({(name, row["image_id"]): big_data / name / row["path"] for row in csv.DictReader(file)})
    with (big_data / "near_duplicates.csv").open(encoding="utf-8", newline="") as file:
        listed = [row for row in csv.DictReader(file) if float(row["hp_corr"]) > 0.97]
    assert len(listed) > 34
    for row in listed:
        a, b = (thumbnail(decode(folders[row[f"src_{s}"], row[f"id_{s}"]]).pixels) for s in "ab")
        hashes = perceptual_hashes(np.stack([a, b]))
        assert len(find_candidates(hashes).pairs) == 1, row
        assert similarity(a, b) >= SAME_PICTURE, row
