"""Before the switch: TensorRT engines where there is TensorRT, then the proof; both by the release's own code.

They run apart (sandbox.py); what they answer is checked before anything of it is written where root reads it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firmware_bridge.deploy.answer import checked_engines, checked_error, checked_proof
from firmware_bridge.deploy.install import make_groups, make_users
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.release import (
    BUNDLE_FILE,
    CHOSEN,
    ENGINES,
    PROOF,
    TENSORRT,
    TRUSTED_KEYS,
    Description,
    write_json,
)
from firmware_bridge.deploy.sandbox import engines_folder, run_apart, signal_name
from firmware_bridge.errors import BundleError, DeployError
from firmware_bridge.files import write_atomically

_PROOF_LIMIT_S = 600.0
# Two engines, each of which has a limit of its own (firmware_bridge/engines.py).
_ENGINES_LIMIT_S = 2700.0


def build_engines(layout: Layout, description: Description) -> dict[str, Any]:
    """Build what TensorRT engines a release may use, and record them. Where none can be built, the CPU scores.

    Args:
        layout: the device.
        description: the release.

    Returns:
        "engines": a row for each; "reason": why there are none, or empty.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    folder = layout.release(description.id)
    if not description.extra.get(TENSORRT):
        return {"engines": [], "reason": ""}
    make_users()
    engines = engines_folder(layout)
    keys = str(folder / TRUSTED_KEYS)
    answer: dict[str, Any] = {"engines": [], "reason": ""}
    try:
        arguments = [str(folder / BUNDLE_FILE), keys, str(layout.engines)]
        done = run_apart(folder, "build_engines", arguments, limit_s=_ENGINES_LIMIT_S, gpu=True, writes=engines)
        answer = checked_engines(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        answer["reason"] = f"no engines within {_ENGINES_LIMIT_S:.0f} s"
    except (IndexError, ValueError, TypeError, LookupError, RecursionError):
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        answer["reason"] = (signal_name(done.returncode) or last[0])[:300]
    write_json(folder / ENGINES, answer)
    return answer


def prove(layout: Layout, description: Description) -> dict[str, Any]:
    """Let a release prove itself, and record what it chose. Nothing that runs is touched.

    Args:
        layout: the device.
        description: the release.

    Raises:
        BundleError: unsigned, not its own results here, no golden X-rays.
        DeployError: it gives no answer at all.
    """
    folder = layout.release(description.id)
    make_users()
    make_groups(description.unit)
    built = build_engines(layout, description)
    usable = any(not row["error"] for row in built["engines"])
    arguments = [str(folder / BUNDLE_FILE), str(folder / TRUSTED_KEYS)]
    arguments += map(str, description.threads)
    try:
        answer = _answer(folder, [*arguments, f"engines={layout.engines}"] if usable else arguments, gpu=usable)
    except DeployError as error:
        if not usable:
            raise
        # A driver that takes the process with it must not keep the CPU from scoring.
        built = {"engines": [], "reason": f"the proof with TensorRT gave no answer: {error.came}"}
        answer = _answer(folder, arguments, gpu=False)
    if description.extra.get(TENSORRT):
        answer["tensorrt"] = why_not_tensorrt(answer, built)
    lines = chosen_settings(answer["chosen"], layout)
    write_atomically(folder / CHOSEN, ("\n".join(lines) + "\n").encode(), mode=0o644)
    write_json(folder / PROOF, answer)
    return dict(answer)


def _answer(folder: Path, arguments: Sequence[str], *, gpu: bool) -> dict[str, Any]:
    """What the proof of the release in `folder` says.

    Raises:
        BundleError: that it does not hold.
        DeployError: nothing, or what no proof says.
    """
    try:
        done = run_apart(folder, "proof", arguments, limit_s=_PROOF_LIMIT_S, gpu=gpu)
    except subprocess.TimeoutExpired as error:
        raise _unproven(f"no answer within {_PROOF_LIMIT_S:.0f} s") from error
    try:
        said = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError, RecursionError) as error:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise _unproven(signal_name(done.returncode) or last[0]) from error
    if isinstance(said, dict) and "error" in said:
        told = checked_error(said["error"])
        raise BundleError(told.pop("what"), **told)
    return checked_proof(said)


def chosen_settings(chosen: dict[str, Any], layout: Layout) -> list[str]:
    """The agent's settings of what was chosen, for its environment."""
    lines = [f"CXR_EDGE_AGENT_PRECISION={chosen['precision']}", f"CXR_EDGE_AGENT_THREADS={chosen['threads']}"]
    if chosen.get("run_by", "tflite") != "tflite":  # code from before there were others knows no such setting
        lines.append(f"CXR_EDGE_AGENT_RUNTIME={chosen['run_by']}")
    if chosen.get("run_by") == TENSORRT:
        lines.append(f"CXR_EDGE_AGENT_ENGINES=/{layout.engines.relative_to(layout.root)}")
    return lines


def why_not_tensorrt(proof: dict[str, Any], built: dict[str, Any]) -> str:
    """Why a device with TensorRT scores without it, in a sentence; empty where it scores with it."""
    chosen = proof["chosen"]
    if chosen["run_by"] == TENSORRT:
        return ""
    tried = [row for row in proof["tried"] if row["run_by"] == TENSORRT]
    errors = [row["error"] for row in (*built["engines"], *tried) if row["error"]]
    wrong = [row["max_difference"] for row in tried if not row["holds"] and row["max_difference"] is not None]
    slower = [row["median_ms"] for row in tried if row["holds"]]
    if slower:
        return f"right but not faster: {min(slower):.1f} ms, the CPU takes {chosen['median_ms']:.1f} ms"
    if wrong:
        return f"it does not give the bundle's results: a difference of {max(wrong):.4f}"
    return built["reason"] or (errors[0] if errors else "it was not tried")


def _unproven(came: str) -> DeployError:
    return DeployError(
        "the new release does not run on this device",
        expected="the golden X-rays to be scored by it",
        came=came[:300],
        do="check with `cxr-edge deploy --dry-run` that the target fits the device; what ran before still runs",
    )
