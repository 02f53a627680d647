"""Every contender opens and says the same of the same X-rays, each within its precision; and their processes."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contenders import LITE0, LITERT, ONNX, OPENVINO, OURS, Contender, contenders
from benchmarks.files import HeldOut
from benchmarks.lines import LUNGS_ONNX, LUNGS_TFLITE, open_line
from benchmarks.measure import COMPARED, Plan, measure
from benchmarks.networks import Network, lung_finder, our_files
from benchmarks.peer_files import lungs_onnx, onnx_files, openvino_files
from benchmarks.peer_lungs import KIND_SCALE, KIND_ZERO, MASK_SCALE, MASK_ZERO, PeerLungs
from benchmarks.remote import Start, cold, running
from firmware_bridge.decode import decode
from firmware_bridge.errors import ModelError
from firmware_bridge.interpreter import load_tflite
from firmware_bridge.preprocess import Preprocessing
from toolkit.benchmark.contenders import Line
from toolkit.lungs.asset import packaged_lungs

STEPS = Preprocessing.default(64)
# The shipped network's name with a tiny one behind it: what is tested is the way, and it takes seconds.
TINY = Network(LITE0, "tiny", STEPS)


def contender(precision: str, runtime: str, *, name: str = "", arithmetic: str = "") -> Contender:
    return Contender(name or f"{runtime}, {precision}", LITE0, precision, runtime, "here", arithmetic)


def xrays(samples: Path) -> list[Path]:
    return sorted((samples / "chest_xray" / "train").rglob("*.jp*g"))[:24]


@pytest.fixture(scope="module")
def pixels(samples: Path) -> np.ndarray:
    return np.stack([STEPS.apply(decode(path).pixels) for path in xrays(samples)])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> Path:
    needs("tensorflow", "tf_keras")  # not imported here: Keras 2 must be chosen first
    from toolkit.backbones.kinds import BACKBONES, EfficientNet

    blocks = ((3, 1, 8, 1, 1), (3, 2, 8, 4, 2))
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        kind = EfficientNet("tiny", "swish", True, blocks=blocks, stem_channels=8, feature_channels=16)
        patch.setitem(BACKBONES, "tiny", kind)
        our_files(TINY, folder, pixels)
    return folder


@pytest.fixture(scope="module")
def onnx(files: Path, pixels: np.ndarray) -> Path:
    needs("onnxruntime", "tf2onnx")
    onnx_files(LITE0, files, pixels)
    return files


def needs(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: pip install 'cxr-edge[train,bench]'")


def logits(files: Path, pixels: np.ndarray, one: Contender) -> np.ndarray:
    line = open_line(one, files, STEPS.to_manifest(), threads=1)
    assert isinstance(line, Line)
    scorer = line.scorer
    return np.array([scorer.head.logit(scorer.interpreter.run(x).mean_features()) for x in pixels])


def assert_alike(reference: np.ndarray, other: np.ndarray, *, part_of_spread: float) -> None:
    assert np.ptp(reference) > 1e-3
    assert np.abs(other - reference).max() < part_of_spread * np.ptp(reference)


def test_the_files_of_the_shipped_network_are_its_own(files: Path, pixels: np.ndarray) -> None:
    reference = logits(files, pixels, contender("float", LITERT))
    assert_alike(reference, logits(files, pixels, contender("fp16", LITERT)), part_of_spread=0.02)
    assert_alike(reference, logits(files, pixels, contender("int8", LITERT)), part_of_spread=0.5)


def test_onnx_runtime_scores_alike(onnx: Path, pixels: np.ndarray) -> None:
    reference = logits(onnx, pixels, contender("float", LITERT))
    assert_alike(reference, logits(onnx, pixels, contender("float", ONNX)), part_of_spread=1e-3)
    assert_alike(reference, logits(onnx, pixels, contender("int8", ONNX)), part_of_spread=0.5)


def test_openvino_scores_alike(onnx: Path, pixels: np.ndarray) -> None:
    needs("openvino", "nncf")
    openvino_files(LITE0, onnx, pixels)
    reference = logits(onnx, pixels, contender("float", LITERT))
    exact = contender("float", OPENVINO, arithmetic="f32")
    assert_alike(reference, logits(onnx, pixels, exact), part_of_spread=1e-3)
    assert_alike(reference, logits(onnx, pixels, contender("float", OPENVINO)), part_of_spread=0.2)
    assert_alike(reference, logits(onnx, pixels, contender("int8", OPENVINO)), part_of_spread=0.5)


def test_the_scales_of_the_lung_network_are_those_of_its_file() -> None:
    raw, _ = load_tflite(packaged_lungs(), threads=1)
    told = {len(details["shape"]): details["quantization"] for details in raw.get_output_details()}
    assert told == {4: (MASK_SCALE, MASK_ZERO), 2: (KIND_SCALE, KIND_ZERO)}


@pytest.mark.parametrize("runtime", [ONNX, OPENVINO])
def test_peers_find_the_same_lungs(runtime: str, samples: Path, tmp_path: Path) -> None:
    needs(runtime, "tf2onnx", "tensorflow")
    (tmp_path / LUNGS_TFLITE).write_bytes(packaged_lungs())
    peer: PeerLungs
    if runtime == ONNX:
        from benchmarks.onnx_peer import OnnxLungs

        lungs_onnx(tmp_path)
        peer = OnnxLungs(tmp_path / LUNGS_ONNX)
    else:
        from benchmarks.openvino_peer import OpenVinoLungs

        peer = OpenVinoLungs(tmp_path / LUNGS_TFLITE)
    for path in xrays(samples)[::8]:
        shown = decode(path).pixels
        ours, theirs = lung_finder().find(shown), peer.find(shown)
        assert ours.box is not None
        assert theirs.kind == ours.kind
        assert (theirs.mask != ours.mask).mean() < 0.02


def start(files: Path, one: Contender) -> Start:
    return Start(one, Path(sys.executable), files, STEPS.to_manifest(), threads=1)


def test_a_contender_in_its_own_process_answers_what_it_answers_here(
    files: Path, pixels: np.ndarray, samples: Path, tmp_path: Path
) -> None:
    one = contender("int8", LITERT)
    np.savez(tmp_path / "few.npz", pixels=pixels[:3])
    images = xrays(samples)[:2]
    with running(start(files, one)) as remote:
        assert remote.logits(tmp_path / "few.npz") == pytest.approx(list(logits(files, pixels[:3], one)))
        times = remote.time(images[0])
        assert 0 < times["infer"] < times["file to score"]
        assert remote.time_folder(images) > 0
        assert remote.peak_bytes() > 20e6
    took_s, peak_bytes = cold(start(files, one), images[0])
    assert 0.05 < took_s < 60
    assert peak_bytes > 20e6


def test_a_contender_that_cannot_load_says_why(files: Path, tmp_path: Path) -> None:
    wrong = replace(start(files, contender("int8", LITERT)), folder=tmp_path)
    with pytest.raises(ModelError, match="No such file"), running(wrong):
        pass


def test_a_run_compares_everybody_with_our_int8(files: Path, pixels: np.ndarray, samples: Path, tmp_path: Path) -> None:
    held = tmp_path / "held-out.npz"
    np.savez(held, pixels=pixels)
    positive = np.arange(len(pixels)) % 2 == 0
    plan = Plan(
        contenders=[contender("fp16", LITERT), contender("int8", LITERT, name=OURS)],
        pythons={"here": Path(sys.executable)},
        files=files,
        preprocessing={LITE0: STEPS.to_manifest()},
        images=xrays(samples)[:2],
        held_out=HeldOut(held, positive, np.arange(len(pixels)).astype(str)),
        threads=(1,),
        rounds=2,
        starts=1,
    )
    report = json.loads(json.dumps(measure(plan, package_bytes={"here": 1}, notes=[])))
    other, ours = report["rows"]
    assert set(other["ratios"]) == set(COMPARED)
    assert ours["ratios"] == {}
    for row in report["rows"]:
        assert row["first_result_s"] > 0
        assert row["peak_bytes"] > 20e6
        assert row["file_bytes"] > 1000
        assert 0 <= row["auroc"]["low"] <= row["auroc"]["value"] <= 1


def test_a_contender_without_environment_is_left_out(tmp_path: Path) -> None:
    nobody = HeldOut(tmp_path, np.zeros(0, bool), np.zeros(0, str))
    plan = Plan(contenders(), {"device": Path(sys.executable)}, tmp_path, {}, [], nobody)
    assert {one.contender.environment for one in plan.begun()} == {"device"}
