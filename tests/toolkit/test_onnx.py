"""ONNX from the deployed TFLite files: the same network, in the form that TensorRT takes."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import BundleError, ModelError
from firmware_bridge.golden import require_golden
from firmware_bridge.interpreter import open_interpreter
from firmware_bridge.manifest import ONNX, TFLITE, GoldenEntry
from firmware_bridge.onnx_runtime import open_onnx
from firmware_bridge.shipped import bundle_path
from toolkit.backbones.kinds import BACKBONES, EfficientNet
from toolkit.bundle import build_bundle, sign_bundle
from toolkit.bundle_onnx import add_onnx
from toolkit.cli.bundle import command
from toolkit.cli.main import run
from toolkit.export import to_float, to_int8
from toolkit.input_scale import INPUT_SCALE
from toolkit.keys import make_key
from toolkit.model import Architecture, build_classifier
from toolkit.onnx_export import OPSET, to_onnx
from toolkit.qat import quantize_aware
from toolkit.tf import keras

DATA = Path(__file__).resolve().parent.parent / "data"
SIZE_PX = 64
STAGES = ((3, 1, 8, 1, 1), (3, 2, 8, 4, 2), (5, 1, 16, 4, 2))
"""Every kind of block that a deployable backbone has: swish with squeeze-and-excitation, and ReLU6 without."""
KINDS = {
    "swish": EfficientNet("swish", "swish", True, blocks=STAGES, stem_channels=8, feature_channels=32),
    "relu6": EfficientNet("relu6", "relu6", False, blocks=STAGES, stem_channels=8, feature_channels=32),
}


def tensors(content: bytes) -> tuple[Any, dict[str, Any]]:
    model = onnx.load_from_string(content)
    return model, {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}


def require_what_tensorrt_asks_for(content: bytes) -> None:
    """Zero points of 0 in int8, one scale for an activation, one per output channel for weights that are float32."""
    model, constants = tensors(content)
    assert {one.version for one in model.opset_import if one.domain == ""} == {OPSET}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
        assert (scale > 0).all()
        if node.op_type == "QuantizeLinear" and node.input[0] in constants:
            assert constants[node.input[0]].dtype == np.float32
        else:
            assert node.input[0] not in constants
    quantized = {node.output[0] for node in pairs if node.op_type == "DequantizeLinear"}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert set(node.input[:2]) <= quantized
            assert constants[node.input[2]].dtype == np.float32
    ends = [(end.name, end.type.tensor_type.elem_type) for end in (*model.graph.input, *model.graph.output)]
    assert ends == [(name, onnx.TensorProto.FLOAT) for name in ("grey", "probability", "features")]


@pytest.mark.parametrize(("name", "precision"), [("float", "fp16"), ("int8", "int8")])
def test_the_same_file_gives_the_same_bytes(name: str, precision: str) -> None:
    tflite = (DATA / f"tiny.{name}.tflite").read_bytes()
    first = to_onnx(tflite, precision=precision)
    to_onnx((DATA / "tiny.float.tflite").read_bytes(), precision="fp16")  # tf2onnx counts on
    assert to_onnx(tflite, precision=precision) == first


@pytest.fixture(scope="module", params=[("swish", "none"), ("swish", "cbam"), ("relu6", "none")], ids="-".join)
def network(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A float network and its quantization-aware form, as they are before they are trained."""
    kind, attention = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, kind, KINDS[kind])
        keras.utils.set_random_seed(3)
        model = build_classifier(
            Architecture(backbone=kind, size_px=SIZE_PX, attention=attention), trainable_drop=False
        )
        quantized = quantize_aware(model, input_scale=INPUT_SCALE)
        for _ in range(2):  # so that the quantizers have seen ranges
            quantized(np.asarray(INPUT_SCALE.normalise(pictures(4)[..., None].astype(np.float32))), training=True)
        return model, quantized


def pictures(n: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (n, SIZE_PX, SIZE_PX)).astype(np.uint8)


def test_a_float_network_of_every_kind_is_the_same_in_onnx(network: tuple[Any, Any]) -> None:
    tflite = to_float(network[0], half=True, scale=INPUT_SCALE, size_px=SIZE_PX)
    theirs, ours = open_interpreter(tflite), open_onnx(to_onnx(tflite, precision="fp16"))
    for picture in pictures(4):
        expected, came = theirs.run(picture), ours.run(picture)
        assert came.probability == pytest.approx(expected.probability, abs=1e-4)
        np.testing.assert_allclose(came.real_features(), expected.real_features(), atol=2e-3)


def test_an_integer_network_of_every_kind_has_zero_points_of_zero_and_the_same_outputs(
    network: tuple[Any, Any],
) -> None:
    tflite = to_int8(network[1], scale=INPUT_SCALE, size_px=SIZE_PX)
    content = to_onnx(tflite, precision="int8")
    require_what_tensorrt_asks_for(content)
    theirs = open_interpreter(tflite)
    for as_written in (False, True):
        ours = open_onnx(content, as_written=as_written)
        for picture in pictures(4):
            expected, came = theirs.run(picture), ours.run(picture)
            steps = np.abs(came.real_features() - expected.real_features()) / expected.scale
            assert steps.mean() < 1.0  # single values are rounded to the step beside, and that spreads
            assert abs(came.probability - expected.probability) < 0.02


def test_what_is_no_model_of_ours_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be converted"):
        to_onnx(b"TFL3" * 10, precision="int8")


@pytest.fixture
def bundle(tmp_path: Path, samples: Path) -> Path:
    """The tiny models with three golden X-rays."""
    return golden_bundle(tmp_path / "tiny.cxr", samples)


def golden_bundle(out: Path, samples: Path, *, shift: float = 0.0, golden: int = 3) -> Path:
    from firmware_bridge.manifest import CalibrationEntry, ModelEntry

    files: dict[str, bytes | Path] = {"models/head.npy": DATA / "tiny.head.npy"}
    models = []
    for precision, name in (("int8", "int8"), ("fp16", "float")):
        file = f"models/model.{precision}.tflite"
        files[file] = DATA / f"tiny.{name}.tflite"
        models.append(ModelEntry(file, precision, "models/head.npy", CalibrationEntry(1.0, 0.0, 0.45)))
    parts: dict[str, Any] = {
        "name": "tiny",
        "labels": ("NORMAL", "PNEUMONIA"),
        "preprocessing": {"version": 1, "steps": [{"name": "resize", "size_px": 32}]},
        "models": models,
    }
    build_bundle(out, **parts, files=files)
    cases = []
    with open_bundle(out) as draft:
        for number, path in enumerate(sorted(samples.glob("chest_xray/**/*.jp*g"))[:golden]):
            files[f"golden/{number}.jpg"] = path
            for model in models:
                probability = draft.scorer(model.precision).score(path).probability + shift
                cases.append(GoldenEntry(f"golden/{number}.jpg", model.file, probability, 0.02))
    return build_bundle(out, **parts, files=files, golden=cases)


def test_a_bundle_gets_the_onnx_form_of_each_model(bundle: Path, tmp_path: Path) -> None:
    out = add_onnx(bundle, tmp_path / "with.cxr")
    with open_bundle(bundle) as before, open_bundle(out) as after:
        assert [(one.precision, one.kind) for one in after.manifest.models] == [
            ("int8", TFLITE),
            ("fp16", TFLITE),
            ("int8", ONNX),
            ("fp16", ONNX),
        ]
        for name in before.manifest.files:
            assert after.read(name) == before.read(name)
        assert after.manifest.model("int8") == before.manifest.model("int8")
        plain, form = after.manifest.model("int8"), after.manifest.model("int8", kind=ONNX)
        assert (form.calibration, form.head) == (plain.calibration, plain.head)
        assert form.metrics["made_from"] == plain.file
        outcomes = require_golden(after)
        assert len(outcomes) == 12
        require_what_tensorrt_asks_for(after.read(form.file))
        once = [after.read(one.file) for one in after.manifest.models]
    add_onnx(out)  # again: the old form is replaced
    with open_bundle(out) as again:
        assert [again.read(one.file) for one in again.manifest.models] == once


def test_onnx_that_does_not_give_the_golden_results_is_refused(tmp_path: Path, samples: Path) -> None:
    wrong = golden_bundle(tmp_path / "wrong.cxr", samples, shift=0.15)
    before = wrong.read_bytes()
    with pytest.raises(BundleError, match=r"(?s)gives other results.*so unsteady is the network.*--no-onnx"):
        add_onnx(wrong)
    with pytest.raises(BundleError, match="no golden X-rays"):
        add_onnx(golden_bundle(tmp_path / "bare.cxr", samples, golden=0))
    assert wrong.read_bytes() == before


def test_the_command_adds_and_signs(bundle: Path, tmp_path: Path) -> None:
    key = make_key(tmp_path / "key", name="clinic", passphrase=None)
    arguments = ["add-onnx", str(bundle), "--key", str(tmp_path / "key")]
    shown = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert shown.output.strip() == str(bundle)
    with open_bundle(bundle) as opened:
        assert [one.key_id for one in opened.signatures] == [key.id]
        assert len(opened.manifest.models) == 4


def test_the_page_s_command_does_what_it_says(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "jetson.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^cxr-edge (bundle add-onnx .*)$", page, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    bundle.rename("mine.cxr")
    make_key(Path("clinic.key"), name="clinic", passphrase=None)
    assert run(shlex.split(line)) == 0
    with open_bundle(Path("mine.cxr")) as opened:
        assert len(opened.manifest.models) == 4
        assert opened.signatures


def test_a_signature_does_not_survive_what_it_did_not_sign(bundle: Path, tmp_path: Path) -> None:
    from toolkit.keys import read_key

    make_key(tmp_path / "key", name="clinic", passphrase=None)
    sign_bundle(bundle, read_key(tmp_path / "key", passphrase=None))
    with open_bundle(add_onnx(bundle)) as opened:
        assert opened.signatures == ()


def test_the_manifest_wants_a_tflite_file_beside_each_onnx_file(bundle: Path, tmp_path: Path) -> None:
    with open_bundle(add_onnx(bundle)) as opened:
        manifest = opened.manifest
        files: dict[str, bytes | Path] = {name: opened.read(name) for name in manifest.files}
    form = manifest.model("int8", kind=ONNX)
    for models in ([form, manifest.model("int8")], [manifest.model("fp16"), form], [replace(form, kind="caffe")]):
        with pytest.raises(BundleError):
            build_bundle(
                tmp_path / "bad.cxr",
                name="bad",
                labels=("a", "b"),
                preprocessing=manifest.preprocessing,
                models=models,
                files=files,
            )


@pytest.mark.slow
def test_the_shipped_model_gives_the_same_in_onnx(samples: Path, tmp_path: Path) -> None:
    """Over all sample X-rays. Undecided ones move most: one step in the maps is much there."""
    out = add_onnx(bundle_path(Path("cxr-edge/kermany")), tmp_path / "kermany.cxr")
    with open_bundle(out) as opened:
        require_golden(opened)
        plain, form = opened.scorer("int8"), opened.scorer("int8", runtime="onnxruntime")
        assert form.judge is not None
        require_what_tensorrt_asks_for(opened.read(opened.manifest.model("int8", kind=ONNX).file))
    xrays = sorted(samples.glob("chest_xray/**/*.jp*g"))
    pairs = [(plain.score(one), form.score(one)) for one in xrays]
    differences = np.array([abs(ours.probability - theirs.probability) for theirs, ours in pairs])
    assert len(pairs) >= 32
    assert differences.mean() < 0.015
    assert differences.max() < 0.1
    cams = [np.abs(form.explain(ours) - plain.explain(theirs)).mean() for theirs, ours in pairs]
    assert np.mean(cams) < 0.05
