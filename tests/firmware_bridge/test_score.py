from __future__ import annotations

import io
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from firmware_bridge.decode import Limits
from firmware_bridge.errors import BundleError, ImageOutOfBounds, ModelError, UnreadableImage
from firmware_bridge.interpreter import open_interpreter
from firmware_bridge.preprocess import Preprocessing
from firmware_bridge.score import Calibration, Head, Scorer

DATA = Path(__file__).parent.parent / "data"
EXPECTED = np.load(DATA / "tiny.expected.npz")
HEAD = Head.from_bytes((DATA / "tiny.head.npy").read_bytes())
SQUASH = Preprocessing.from_manifest({"version": 1, "steps": [{"name": "resize", "size_px": 32}]})
PNG = cv2.imencode(".png", EXPECTED["picture"])[1].tobytes()


def scorer(model: str = "float", *, temperature: float = 1.0, bias: float = 0.0, threshold: float = 0.4) -> Scorer:
    interpreter = open_interpreter(DATA / f"tiny.{model}.tflite")
    return Scorer(interpreter, HEAD, Calibration(temperature, bias, threshold), SQUASH)


@pytest.mark.parametrize(("model", "tolerance"), [("float", 1e-5), ("int8", 0.01)])
def test_the_head_and_the_files_own_probability_agree(model: str, tolerance: float) -> None:
    score = scorer(model).score(PNG)
    assert score.probability == pytest.approx(float(EXPECTED["probability"]), abs=tolerance)
    assert score.output.probability == pytest.approx(score.probability, abs=tolerance)


def test_a_score_tells_its_timings_and_what_was_decoded(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(PNG)
    score = scorer().score(path)
    assert set(score.timings_ms) == {"decode", "preprocess", "infer"}
    assert all(0 < taken < 10_000 for taken in score.timings_ms.values())
    assert (score.decoded.format, score.decoded.width_px, score.decoded.height_px) == ("png", 32, 32)
    assert np.array_equal(score.pixels, EXPECTED["picture"])


def test_temperature_bias_and_threshold() -> None:
    plain = scorer().score(PNG)
    assert plain.decision is (plain.probability >= 0.4)
    warm = scorer(temperature=2.0, bias=0.5).score(PNG)
    assert warm.logit == plain.logit
    assert warm.probability == pytest.approx(1 / (1 + math.exp(-(plain.logit / 2 + 0.5))))
    assert scorer(threshold=plain.probability).score(PNG).decision  # at the threshold is positive
    assert not scorer(threshold=math.nextafter(plain.probability, 1)).score(PNG).decision


@pytest.mark.parametrize(("logit", "expected"), [(-1e6, 0.0), (0.0, 0.5), (1e6, 1.0)])
def test_no_logit_overflows(logit: float, expected: float) -> None:
    assert Calibration(0.01, 0.0, 0.5).probability(logit) == expected


def test_a_score_explains_itself() -> None:
    scoring = scorer()
    assert np.abs(scoring.explain(scoring.score(PNG)) - EXPECTED["cam"]).max() < 1e-3


def test_the_same_file_scores_the_same_twice() -> None:
    scoring = scorer("int8")
    first, second = scoring.score(PNG), scoring.score(PNG)
    assert (first.logit, first.probability) == (second.logit, second.probability)


def test_errors_of_the_decoder_come_through() -> None:
    with pytest.raises(UnreadableImage):
        scorer().score(PNG[:-20])
    narrow = Scorer(
        scorer().interpreter, HEAD, Calibration(1.0, 0.0, 0.5), SQUASH, limits=Limits(max_bytes=len(PNG) - 1)
    )
    with pytest.raises(ImageOutOfBounds):
        narrow.score(PNG)


def test_parts_that_do_not_fit_are_refused() -> None:
    interpreter = open_interpreter(DATA / "tiny.int8.tflite")
    calibration = Calibration(1.0, 0.0, 0.5)
    with pytest.raises(ModelError, match="preprocessing does not fit"):
        Scorer(interpreter, HEAD, calibration, Preprocessing.default(64))
    with pytest.raises(ModelError, match="head does not fit"):
        Scorer(interpreter, Head(HEAD.weights[:-1], 0.0), calibration, SQUASH).score(PNG)


def test_a_head_survives_its_bytes() -> None:
    again = Head.from_bytes(HEAD.to_bytes())
    assert np.array_equal(again.weights, HEAD.weights)
    assert again.bias == HEAD.bias


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not npy",
        npy(np.zeros(5)),  # float64
        npy(np.zeros((2, 5), np.float32)),
        npy(np.zeros(1, np.float32)),
        npy(np.array([1, np.nan], np.float32)),
        npy(np.array([object()])),
        HEAD.to_bytes()[:-4],
    ],
    ids=range(8),
)
def test_a_damaged_head_is_a_bundle_error(content: bytes) -> None:
    with pytest.raises(BundleError):
        Head.from_bytes(content)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [("(1000000000000,)", "'<f4'"), ("(99999999999999999999999999,)", "'<f4'"), ("(-1,)", "'<f4'"), ("(3,)", "((((")],
)
def test_a_hostile_head_is_a_bundle_error(shape: str, kind: str) -> None:
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    with pytest.raises(BundleError):
        Head.from_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(12))


def test_a_zip_in_place_of_the_head_is_a_bundle_error() -> None:
    with pytest.raises(BundleError):
        Head.from_bytes(b"PK\x03\x04 and no more")


@pytest.mark.parametrize(
    "values", [(0.0, 0.0, 0.5), (-1.0, 0.0, 0.5), (math.nan, 0.0, 0.5), (1.0, math.inf, 0.5), (1.0, 0.0, 1.5)]
)
def test_impossible_calibrations_are_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(BundleError):
        Calibration(*values)
