from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from firmware_bridge.errors import ConfigError, CxrEdgeError, MissingExtraError, ModelError
from firmware_bridge.interpreter import RUNTIMES, Interpreter, ModelOutput, open_interpreter

DATA = Path(__file__).parent.parent / "data"
INT8, FLOAT = DATA / "tiny.int8.tflite", DATA / "tiny.float.tflite"
EXPECTED = np.load(DATA / "tiny.expected.npz")


def is_installed(runtime: str) -> bool:
    return importlib.util.find_spec(RUNTIMES[runtime].split(".")[0]) is not None


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    if not is_installed(request.param):
        pytest.skip(f"{request.param} is not installed here")
    return str(request.param)


@pytest.mark.parametrize(("model", "tolerance"), [(INT8, 0.02), (FLOAT, 1e-5)], ids=["int8", "float"])
def test_a_model_gives_what_tensorflow_gave(runtime: str, model: Path, tolerance: float) -> None:
    interpreter = open_interpreter(model, threads=1, runtime=runtime)
    output = interpreter.run(EXPECTED["picture"])
    assert (interpreter.runtime, interpreter.size_px, interpreter.threads) == (runtime, 32, 1)
    assert output.probability == pytest.approx(float(EXPECTED["probability"]), abs=tolerance)
    assert output.features.shape == EXPECTED["features"].shape
    assert np.abs(output.real_features() - EXPECTED["features"]).max() < tolerance
    assert np.abs(output.mean_features() - EXPECTED["features"].mean(axis=(0, 1))).max() < tolerance
    assert output.mean_features().dtype == np.float32


def test_the_delegate_is_what_the_operators_say(runtime: str) -> None:
    int8, floating = open_interpreter(INT8, runtime=runtime), open_interpreter(FLOAT, runtime=runtime)
    assert (floating.delegate, floating.partitions) == ("XNNPACK", 1)
    # tflite-runtime leaves quantized operators to its own kernels.
    assert (int8.delegate, int8.partitions) == (("XNNPACK", 1) if runtime == "ai-edge-litert" else ("none", 0))


def test_bytes_and_file_are_the_same() -> None:
    from_file, from_bytes = open_interpreter(INT8), open_interpreter(INT8.read_bytes())
    ours, theirs = from_file.run(EXPECTED["picture"]), from_bytes.run(EXPECTED["picture"])
    assert ours.probability == theirs.probability
    assert np.array_equal(ours.features, theirs.features)


def test_outputs_stay_after_the_next_inference() -> None:
    interpreter = open_interpreter(FLOAT)
    first = interpreter.run(EXPECTED["picture"])
    kept = first.features.copy()
    interpreter.run(255 - EXPECTED["picture"])
    assert np.array_equal(first.features, kept)


def test_threads_may_share_an_interpreter() -> None:
    interpreter = open_interpreter(FLOAT, threads=1)
    pictures = [EXPECTED["picture"], 255 - EXPECTED["picture"]]
    alone = [interpreter.run(picture).probability for picture in pictures]
    wrong: list[float] = []

    def work(which: int) -> None:
        for _ in range(200):
            got = interpreter.run(pictures[which]).probability
            if got != alone[which]:
                wrong.append(got)

    workers = [threading.Thread(target=work, args=(which,)) for which in (0, 1, 0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.parametrize("features", [np.int8, np.uint8])
def test_mean_features_are_exact_over_the_whole_range(features: type) -> None:
    limits = np.iinfo(features)
    raw: NDArray[Any] = np.full((20, 20, 3), limits.max, features)
    raw[..., 1] = limits.min
    output = ModelOutput(probability=0.5, features=raw, scale=0.5, zero_point=7)
    assert output.mean_features() == pytest.approx([(limits.max - 7) / 2, (limits.min - 7) / 2, (limits.max - 7) / 2])


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((33, 32), np.uint8), np.zeros((32, 32), np.float32), np.zeros((1, 32, 32, 1), np.uint8)],
    ids=["shape", "type", "rank"],
)
def test_another_shape_or_type_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ModelError, match="does not fit"):
        open_interpreter(INT8).run(pixels)


# tflite-runtime 2.14 ends the process with SIGSEGV on such a file; bundles are hashed before they come this far.
verifies = pytest.mark.skipif(not is_installed("ai-edge-litert"), reason="only ai-edge-litert verifies a flatbuffer")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"short", id="short"),
        pytest.param(bytes(5000), id="zeros"),
        pytest.param(b"\x1c\0\0\0TFL3", id="only-magic", marks=verifies),
        pytest.param(INT8.read_bytes()[:3000], id="truncated", marks=verifies),
    ],
)
def test_what_is_no_model_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(ModelError) as caught:
            open_interpreter(source)
        assert caught.value.do


def test_a_missing_model_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        open_interpreter(tmp_path / "none.tflite")


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_impossible_threads_are_a_config_error(threads: int) -> None:
    with pytest.raises(ConfigError):
        open_interpreter(INT8, threads=threads)


def test_an_unknown_runtime_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="ai-edge-litert"):
        open_interpreter(INT8, runtime="onnx")


def test_a_missing_runtime_says_what_to_install() -> None:
    for runtime in RUNTIMES:
        if not is_installed(runtime):
            with pytest.raises(MissingExtraError, match="pip install"):
                open_interpreter(INT8, runtime=runtime)
            return
    pytest.skip("every runtime is installed here")


FLIPS = """
import random, sys
from pathlib import Path
import numpy as np
from firmware_bridge.errors import CxrEdgeError
from firmware_bridge.interpreter import open_interpreter
whole, random_ = Path(sys.argv[1]).read_bytes(), random.Random(int(sys.argv[2]))
content = bytearray(whole)
for _ in range(3):
    content[random_.randrange(len(content))] ^= 1 << random_.randrange(8)
try:
    interpreter = open_interpreter(bytes(content))
    if interpreter.size_px < 1000:
        interpreter.run(np.zeros((interpreter.size_px,) * 2, np.uint8))
except CxrEdgeError:
    pass
"""


@verifies
@pytest.mark.parametrize("seed", range(6))
def test_damaged_models_end_in_our_errors(seed: int) -> None:
    done = subprocess.run([sys.executable, "-c", FLIPS, INT8, str(seed)], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


def test_the_class_keeps_the_protocol() -> None:
    def takes(interpreter: Interpreter) -> int:
        return interpreter.size_px

    assert takes(open_interpreter(INT8)) == 32
    assert issubclass(ModelError, CxrEdgeError)
