"""What a proof may say. Its process is not trusted: it must not get a line of its own into the agent's environment."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge.deploy.answer import checked_engines, checked_error, checked_proof
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.proving import chosen_settings
from firmware_bridge.deploy.sandbox import signal_name, unit_text
from firmware_bridge.errors import DeployError

ROW = {
    "model": "models/model.int8.tflite",
    "precision": "int8",
    "threads": 2,
    "holds": True,
    "error": "",
    "run_by": "tflite",
    "median_ms": 2.7,
    "max_difference": 0.001,
    "runtime": "ai-edge-litert",
    "delegate": "XNNPACK",
}
ANSWER = {"signed_by": {"name": "clinic", "id": "ab"}, "tried": [ROW], "chosen": ROW}


def with_chosen(**changed: Any) -> dict[str, Any]:
    return {**ANSWER, "chosen": {**ROW, **changed}}


def test_a_proof_comes_through_as_it_is() -> None:
    assert checked_proof(json.loads(json.dumps(ANSWER))) == ANSWER
    assert checked_proof({**ANSWER, "more": "x"}) == ANSWER


@pytest.mark.parametrize(
    "said",
    [
        with_chosen(precision="int8\nLD_PRELOAD=/var/lib/cxr-edge/forge.so"),
        with_chosen(precision="float64"),
        with_chosen(run_by="tflite\nX=1"),
        with_chosen(threads="2\nX=1"),
        with_chosen(threads=True),
        with_chosen(threads=0),
        with_chosen(model="../../etc/passwd"),
        with_chosen(median_ms=math.inf),
        with_chosen(median_ms=None),
        with_chosen(holds=False),
        with_chosen(delegate=7),
        {**ANSWER, "tried": [ROW] * 1001},
        {**ANSWER, "signed_by": "clinic"},
        {"chosen": ROW},
        [],
        None,
        "text",
        7,
    ],
)
def test_anything_else_is_refused(said: Any) -> None:
    with pytest.raises(DeployError, match="proof of the new release is none") as caught:
        checked_proof(said)
    assert "\n" not in caught.value.came


def test_settings_hold_one_line_each(tmp_path: Path) -> None:
    lines = chosen_settings(checked_proof(ANSWER)["chosen"], Layout(tmp_path))
    assert lines == ["CXR_EDGE_AGENT_PRECISION=int8", "CXR_EDGE_AGENT_THREADS=2"]


def test_words_reach_a_terminal_without_control_characters() -> None:
    error = checked_error({"what": "bad\x1b[31m", "expected": ["x"], "came": "a\nb"})
    assert (error["what"], error["came"], error["do"]) == ("bad [31m", "a b", "not said")
    assert set(checked_error("nothing").values()) == {"not said"}
    engines = checked_engines({"engines": [{"model": "m", "error": "", "seconds": 3, "built": True}], "reason": ""})
    assert engines["engines"] == [{"model": "m", "error": "", "seconds": 3.0, "built": True}]


def test_a_signal_is_told_by_its_name_where_it_has_one() -> None:
    assert [signal_name(code) for code in (1, -9, -35)] == ["", "ended by SIGKILL", "ended by signal 35"]


def test_a_proof_runs_as_nobody_that_a_service_runs_as() -> None:
    folder = Path("/opt/cxr-edge/releases/0123456789abcdef")
    proof = unit_text(folder, "proof", ["a", "b"], limit_s=600, gpu=False, writes=None).splitlines()
    assert "User=cxr-edge-proof" in proof
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "PrivateNetwork=yes", "MemoryDenyWriteExecute=yes"):
        assert line in proof
    assert "InaccessiblePaths=-/var/lib/cxr-edge" in proof
    assert not [line for line in proof if line.startswith("ReadWritePaths")]
    build = unit_text(folder, "build_engines", ["a"], limit_s=9, gpu=True, writes=Path("/opt/cxr-edge/engines"))
    assert "ReadWritePaths=/opt/cxr-edge/engines" in build.splitlines()
    assert "PrivateDevices" not in build
