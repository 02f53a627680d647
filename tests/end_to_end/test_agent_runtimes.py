"""The agent with another runtime: it scores with it once it is proven, and with TFLite where it is not, and says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed here")

from firmware_bridge.backends import open_scorer
from firmware_bridge.bundle import open_bundle
from firmware_bridge.deploy import proof
from firmware_bridge.deploy.build_engines import build_all
from firmware_bridge.deploy.proving import why_not_tensorrt
from firmware_bridge.errors import BundleError
from firmware_bridge.golden import require_golden
from firmware_bridge.manifest import ONNX, GoldenEntry
from toolkit.bundle import build_bundle, sign_bundle
from toolkit.cli.agent_status import command as status_command

from .conftest import DATA, Agent, Xrays, until
from .test_agent_trust import KEY, trust, with_golden

CPU = {"run_by": "tflite", "median_ms": 8.0}


def with_onnx(bundle: Path, samples: Path, out: Path, *, shift: float = 0.0) -> Path:
    """The tiny bundle with golden X-rays and its ONNX form, signed; `shift` makes the golden ones of that wrong."""
    with open_bundle(with_golden(bundle, samples, out)) as opened:
        manifest = opened.manifest
        files: dict[str, bytes | Path] = {name: opened.read(name) for name in manifest.files}
    file = "models/model.int8.onnx"
    files[file] = DATA / "tiny.int8.onnx"
    golden = [GoldenEntry(one.file, file, one.probability + shift, 0.02) for one in manifest.golden]
    built = build_bundle(
        out,
        name="runtimes",
        labels=(manifest.label_negative, manifest.label_positive),
        preprocessing=manifest.preprocessing,
        models=[*manifest.models, replace(manifest.models[0], file=file, kind=ONNX)],
        golden=[*manifest.golden, *golden],
        files=files,
    )
    return sign_bundle(built, KEY)


@pytest.fixture
def bundle(bundle_file: Path, samples: Path, tmp_path: Path) -> Path:
    return with_onnx(bundle_file, samples, tmp_path / "onnx.cxr")


def test_both_forms_reproduce_the_golden_xrays(bundle: Path) -> None:
    with open_bundle(bundle) as opened:
        assert {one.model for one in require_golden(opened)} == {"models/model.int8.tflite", "models/model.int8.onnx"}


def test_a_proven_runtime_scores_and_explains(agent: Agent, xrays: Xrays, bundle: Path) -> None:
    agent.bundle = bundle
    xrays.put(agent.watch / "a.jpg")
    xray = (agent.watch / "a.jpg").read_bytes()
    agent.start("--once", environment={"CXR_EDGE_AGENT_RUNTIME": "onnxruntime"})
    assert agent.wait() == 0
    record: dict[str, Any] = agent.json("a.jpg")
    assert record["model"]["runtime"] == "onnxruntime"
    assert record["model"]["file"] == "models/model.int8.onnx"
    with open_bundle(bundle) as opened:
        expected = opened.scorer().score(xray).probability
    assert record["probability"] == pytest.approx(expected, abs=0.01)
    assert record["explanation"]["method"]


@pytest.mark.parametrize("case", ["wrong results", "no TensorRT", "no ONNX in the bundle"])
def test_tflite_scores_where_the_wished_runtime_does_not(
    agent: Agent, xrays: Xrays, bundle_file: Path, bundle: Path, samples: Path, tmp_path: Path, case: str
) -> None:
    runtime = "tensorrt" if case == "no TensorRT" else "onnxruntime"
    agent.bundle = bundle
    if case == "wrong results":
        agent.bundle = with_onnx(bundle_file, samples, tmp_path / "wrong.cxr", shift=0.1)
    if case == "no ONNX in the bundle":
        agent.bundle = bundle_file
    engines = tmp_path / "engines"
    engines.mkdir()
    agent.start(environment={"CXR_EDGE_AGENT_RUNTIME": runtime, "CXR_EDGE_AGENT_ENGINES": str(engines)})
    xrays.put(agent.watch / "a.jpg")
    record: dict[str, Any] = until(lambda: agent.json("a.jpg"), what="a result")
    assert record["model"]["runtime"] == "ai-edge-litert"
    arguments = ["--state", str(agent.state), "--json"]
    shown = json.loads(CliRunner().invoke(status_command, arguments, catch_exceptions=False).output)
    assert shown["works"]
    assert shown["problems"]["runtime"].startswith(f"{runtime} does not run here, TFLite on the CPU does")
    assert shown["model"]["runtime"] == "ai-edge-litert"
    assert agent.terminate() == 0


def test_a_fallback_names_its_reason(bundle: Path, tmp_path: Path) -> None:
    with open_bundle(bundle) as opened:
        good = open_scorer(opened, None, threads=1, runtime="onnxruntime")
        assert (good.entry.kind, good.fallback) == (ONNX, "")
        without = open_scorer(opened, "int8", threads=1, runtime="tensorrt", engines=tmp_path)
        assert without.scorer.interpreter.runtime == "ai-edge-litert"
        assert "TensorRT cannot be loaded here" in without.fallback
        with pytest.raises(BundleError, match="no fp16 model"):
            open_scorer(opened, "fp16", threads=1, runtime="tensorrt", engines=tmp_path)


def test_a_proof_tries_every_runtime_and_tells_why_not_tensorrt(bundle: Path, tmp_path: Path) -> None:
    keys = trust(tmp_path / "keys.toml", KEY)
    answer = proof.prove(bundle, keys, [1], engines=tmp_path)
    assert [one["run_by"] for one in answer["tried"]] == ["tflite", "tensorrt", "onnxruntime"]
    assert [one["holds"] for one in answer["tried"]] == [True, False, True]
    assert answer["chosen"]["run_by"] != "tensorrt"
    built = build_all(bundle, keys, tmp_path)
    assert built["engines"] == []
    assert "TensorRT cannot be loaded here" in built["reason"]
    assert why_not_tensorrt(answer, built) == built["reason"]


def test_a_bundle_without_onnx_has_no_engines_and_says_what_to_do(
    bundle_file: Path, samples: Path, tmp_path: Path
) -> None:
    plain = with_golden(bundle_file, samples, tmp_path / "plain.cxr")
    assert "add-onnx" in build_all(plain, trust(tmp_path / "keys.toml", KEY), tmp_path)["reason"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"holds": True, "median_ms": 9.0, "max_difference": 0.001, "error": ""}, "not faster: 9.0 ms"),
        ({"holds": False, "median_ms": 2.0, "max_difference": 0.3, "error": ""}, "a difference of 0.3000"),
        ({"holds": False, "median_ms": None, "max_difference": None, "error": "the GPU failed"}, "the GPU failed"),
    ],
)
def test_why_a_device_does_not_use_its_tensorrt(row: dict[str, Any], said: str) -> None:
    found = {"chosen": CPU, "tried": [{"run_by": "tflite"}, {"run_by": "tensorrt", **row}]}
    assert said in why_not_tensorrt(found, {"engines": [], "reason": ""})
    assert why_not_tensorrt({**found, "chosen": {"run_by": "tensorrt"}}, {"engines": [], "reason": ""}) == ""
