from __future__ import annotations

import numpy as np
import pytest

from calibration.suitability import Observed, fit_suitability
from firmware_bridge.errors import BundleError, InputError, UnsuitableImage
from firmware_bridge.lungs import KINDS, judged
from firmware_bridge.manifest_parse import SUITABILITY_VERSION
from firmware_bridge.suitability import MEASURES, VERSION, Judge, Statistics, contrast_of, measures_of


def lungs_of(*, shift: int = 0, kind: str = "upright", certainty: float = 0.9):  # type: ignore[no-untyped-def]
    mask = np.zeros((128, 128), np.float32)
    mask[30:90, 20 + shift : 50 + shift] = certainty
    mask[30:90, 75 + shift : 105 + shift] = certainty
    kinds = np.full(len(KINDS), 0.01, np.float32)
    kinds[KINDS.index(kind)] = 0.94
    return judged(mask, kinds)


def picture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    grey = rng.normal(160, 25, (128, 128))
    grey[30:90, 20:50] -= 90
    grey[30:90, 75:105] -= 90
    return np.clip(grey, 0, 255).astype(np.uint8)


def observed(n: int, seed: int) -> Observed:
    rng = np.random.default_rng(seed)
    seen = [measures_of(picture(seed + i), lungs_of(shift=int(rng.integers(-8, 9)))) for i in range(n)]
    kinds = np.tile(lungs_of().kinds, (n, 1)).astype(np.float64)
    mixed = rng.normal(size=(20, 64))
    features = rng.normal(size=(n, 20)) @ mixed + rng.normal(size=(n, 64))
    return Observed(rng.uniform(80, 200, n), kinds, np.array(seen, np.float64), features)


@pytest.fixture(scope="module")
def statistics() -> Statistics:
    return fit_suitability(observed(300, 0), observed(150, 1000))


def features(statistics: Statistics) -> np.ndarray:
    return statistics.features_mean.copy()


@pytest.mark.parametrize("spread", [0.0, 0.3, 5.0, 60.0, 400.0])
def test_the_contrast_is_that_of_percentiles(spread: float) -> None:
    for seed in range(20):
        levels = np.random.default_rng(seed).normal(90, spread, (128, 128))
        grey = np.clip(levels, 0, 255).astype(np.uint8)
        low, high = np.percentile(grey, (2, 98))
        assert contrast_of(grey) == pytest.approx(float(high - low), abs=1e-9)


def test_held_out_x_rays_pass(statistics: Statistics) -> None:
    judge = Judge(statistics)
    numbers = judge.picture(picture(7), lungs_of(shift=3))
    told = judge.features(features(statistics), numbers)
    assert told["population"] == "inside"
    assert told["lungs_distance"] < statistics.measures_limits[0]
    assert VERSION == SUITABILITY_VERSION


@pytest.mark.parametrize("kind", KINDS[1:])
def test_each_kind_is_refused_by_its_name(statistics: Statistics, kind: str) -> None:
    with pytest.raises(UnsuitableImage) as caught:
        Judge(statistics).picture(picture(), lungs_of(kind=kind))
    assert caught.value.reason == kind
    assert caught.value.measures[kind] == pytest.approx(0.94)


def test_a_blank_picture_is_refused_before_anything_else(statistics: Statistics) -> None:
    with pytest.raises(UnsuitableImage) as caught:
        Judge(statistics).picture(np.full((200, 300), 99, np.uint8), lungs_of(kind="not_chest"))
    assert caught.value.reason == "no_contrast"


def test_no_lungs_is_a_reason_of_its_own(statistics: Statistics) -> None:
    with pytest.raises(UnsuitableImage) as caught:
        Judge(statistics).picture(picture(), judged(np.zeros((128, 128), np.float32), lungs_of().kinds))
    assert caught.value.reason == "no_lungs"
    assert caught.value.measures["contrast"] > 50


def test_odd_lungs_and_unlike_features_are_refused(statistics: Statistics) -> None:
    judge = Judge(statistics)
    with pytest.raises(UnsuitableImage) as caught:
        judge.picture(np.asarray(255 - picture(), np.uint8), lungs_of(shift=20))
    assert caught.value.reason == "odd_lungs"
    numbers = judge.picture(picture(), lungs_of())
    with pytest.raises(UnsuitableImage) as caught:
        judge.features(features(statistics) + 1000, numbers)
    assert caught.value.reason == "unlike"


def test_outside_the_population_is_told_or_refused_as_wished(statistics: Statistics) -> None:
    numbers = Judge(statistics).picture(picture(), lungs_of())
    between = np.mean(statistics.features_limits)
    far = features(statistics)
    rng = np.random.default_rng(3)
    step = rng.normal(size=far.shape).astype(np.float32)
    low, high = 0.0, 1e4
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if statistics.features_distance(far + middle * step) < between else (low, middle)
    assert Judge(statistics).features(far + low * step, numbers)["population"] == "outside"
    with pytest.raises(UnsuitableImage) as caught:
        Judge(statistics, refuse_outside=True).features(far + low * step, numbers)
    assert caught.value.reason == "outside"


def test_most_of_validation_is_inside(statistics: Statistics) -> None:
    held = observed(150, 1000)
    inside = [
        statistics.measures_distance(m) <= statistics.measures_limits[0]
        and statistics.features_distance(f) <= statistics.features_limits[0]
        for m, f in zip(held.measures, held.features, strict=True)
    ]
    assert np.mean(inside) >= 0.98


def test_the_file_survives_and_equal_statistics_give_equal_bytes(statistics: Statistics) -> None:
    content = statistics.to_bytes()
    again = Statistics.from_bytes(content)
    assert again.to_bytes() == content
    assert len(again.measures_mean) == len(MEASURES)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 and no more", "cut", "nan"])
def test_a_damaged_file_is_a_bundle_error(statistics: Statistics, damage: bytes | str) -> None:
    content = statistics.to_bytes()
    if damage == "cut":
        damage = content[:-100]
    elif damage == "nan":
        broken = Statistics.from_bytes(content)
        broken.features_mean[0] = np.nan
        damage = broken.to_bytes()
    assert isinstance(damage, bytes)
    with pytest.raises(BundleError, match="suitability"):
        Statistics.from_bytes(damage)


def test_too_few_x_rays_teach_nothing() -> None:
    with pytest.raises(InputError, match="too few"):
        fit_suitability(observed(5, 0), observed(20, 9))
