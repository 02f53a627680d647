"""Augmentation: decided by the seed, grey bytes in and out, and the heart stays on its side."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from firmware_bridge.preprocess import Preprocessing
from toolkit.augment import Augmenter
from toolkit.augmentation import METHODS, PRESETS, probabilities
from toolkit.data.index import Index
from toolkit.data.load import load

Grey = npt.NDArray[np.uint8]
STRENGTHS = PRESETS


@pytest.fixture(scope="module")
def xray(samples: Path) -> Grey:
    steps = Preprocessing.from_manifest({"version": 1, "steps": [{"name": "resize", "size_px": 96}]})
    return load(Index.read(samples / "index.csv").rows[:1], steps).pixels[0]


@pytest.mark.parametrize("strength", STRENGTHS)
def test_grey_bytes_stay_grey_bytes(xray: Grey, strength: str) -> None:
    augment = Augmenter(strength)
    before = xray.copy()
    for seed in range(60):
        out = augment(xray, seed=seed)
        assert (out.dtype, out.shape) == (np.uint8, xray.shape)
    np.testing.assert_array_equal(xray, before)


@pytest.mark.parametrize("strength", STRENGTHS[1:])
def test_the_seed_decides_in_any_thread_and_order(xray: Grey, strength: str) -> None:
    augment = Augmenter(strength)
    seeds = list(range(40))
    expected = [augment(xray, seed=seed) for seed in seeds]
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda seed: augment(xray, seed=seed), reversed(seeds)))
    for one, other in zip(expected, reversed(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({one.tobytes() for one in expected}) > 30


@pytest.mark.parametrize("strength", STRENGTHS)
def test_never_a_horizontal_flip(strength: str) -> None:
    # A bright left half: whatever else happens (holes too), the left stays the brighter side.
    pixels = np.full((96, 96), 40, np.uint8)
    pixels[:, :48] = 200
    augment = Augmenter(strength)
    for seed in range(300):
        out = augment(pixels, seed=seed).astype(np.float64)
        # Markers and borders cover what they cover: the middle of each half tells.
        assert np.median(out[24:72, 16:44]) > np.median(out[24:72, 52:80]), seed


def _only(method: str) -> Augmenter:
    return Augmenter("none", {method: 1.0})


def _same_order(before: Grey, after: Grey) -> bool:
    """Whether a darker grey level never became the brighter one."""
    darkest = [int(after[before == level].min()) for level in np.unique(before)]
    brightest = [int(after[before == level].max()) for level in np.unique(before)]
    return all(low <= high for low, high in zip(brightest, darkest[1:], strict=False))


@pytest.mark.parametrize("method", METHODS)
def test_each_method_alone_changes_the_picture(xray: Grey, method: str) -> None:
    augment = _only(method)
    changed = [not np.array_equal(augment(xray, seed=seed), xray) for seed in range(20)]
    assert sum(changed) >= 15  # a border may have no width, a brightness no shift


@pytest.mark.parametrize("method", ["brightness", "gamma", "curve"])
def test_tone_methods_map_each_grey_level_to_one_and_keep_their_order(xray: Grey, method: str) -> None:
    augment = _only(method)
    for seed in range(20):
        assert _same_order(xray, augment(xray, seed=seed)), seed


def test_tone_curves_differ_and_reach_near_black_and_white() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (8, 1))
    curves = [_only("curve")(ramp, seed=seed)[0].astype(int) for seed in range(30)]
    assert all(0 <= curve[0] <= 40 and 200 <= curve[-1] <= 255 for curve in curves)
    assert np.std([curve[128] for curve in curves]) > 15


def test_collimation_covers_at_most_an_eighth_of_each_side_and_leaves_the_middle(xray: Grey) -> None:
    seen = set()
    for seed in range(60):
        out = _only("collimation")(xray, seed=seed)
        np.testing.assert_array_equal(out[12:-12, 12:-12], xray[12:-12, 12:-12])
        for side in (out[0], out[-1], out[:, 0], out[:, -1]):
            if np.ptp(side) == 0:
                seen.add(int(side[0]))
    assert {0, 255} < seen


def test_markers_stay_near_the_corners(xray: Grey) -> None:
    touched = np.zeros(xray.shape, bool)
    for seed in range(60):
        touched |= _only("markers")(xray, seed=seed) != xray
    assert touched[:29].any()
    assert touched[76:].any()
    assert not touched[36:65].any()


def test_rescale_takes_detail_out() -> None:
    noisy = np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8)
    for seed in range(20):
        out = _only("rescale")(noisy, seed=seed)
        assert out.shape == noisy.shape
        assert not np.array_equal(out, noisy)
    assert np.mean([_only("rescale")(noisy, seed=seed).std() for seed in range(20)]) < 0.9 * noisy.std()


def _lungs() -> Grey:
    mask = np.zeros((96, 96), np.uint8)
    mask[20:76, 16:42] = mask[20:76, 54:80] = 255
    return mask


def test_lungs_only_leaves_what_is_outside(xray: Grey) -> None:
    augment = Augmenter("none", {"noise": 1.0, "curve": 1.0, "lungs_only": 1.0})
    for seed in range(10):
        out = augment(xray, seed=seed, lungs=_lungs())
        np.testing.assert_array_equal(out[:, :8], xray[:, :8])
        assert not np.array_equal(out[30:60, 20:40], xray[30:60, 20:40])


def test_outside_replaces_what_is_outside_and_nothing_else(xray: Grey) -> None:
    augment = Augmenter("none", {"outside": 1.0})
    other = np.full_like(xray, 77)
    kinds = set()
    for seed in range(40):
        out = augment(xray, seed=seed, lungs=_lungs(), other=other)
        np.testing.assert_array_equal(out[26:70, 22:36], xray[26:70, 22:36])
        assert not np.array_equal(out[:, :8], xray[:, :8])
        kinds.add(np.array_equal(out[:, :8], other[:, :8]))
    assert kinds == {True, False}


@pytest.mark.parametrize("lungs", [None, np.zeros((96, 96), np.uint8)])
def test_without_lungs_the_whole_picture_is_augmented(xray: Grey, lungs: Grey | None) -> None:
    aware = Augmenter("heavy", {"outside": 1.0, "lungs_only": 1.0})
    plain = Augmenter("heavy")
    np.testing.assert_array_equal(aware(xray, seed=3, lungs=lungs), plain(xray, seed=3))
    assert aware.needs_lungs
    assert not plain.needs_lungs


def test_options_override_the_preset() -> None:
    wanted = probabilities("strong", {"curve": 0.5, "affine": 0.0, "gamma": -1.0})
    assert (wanted["curve"], wanted["affine"], wanted["gamma"], wanted["outside"]) == (0.5, 0.0, 0.7, 0.0)
    assert not any(probabilities("none", {}).values())
    assert set(probabilities("heavy", {})) > set(METHODS)
