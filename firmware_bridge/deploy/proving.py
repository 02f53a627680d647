"""Before the switch: TensorRT engines where there is TensorRT, then the proof; both by the release's own code.

They run as the service's user, outside the service's sandbox: what they read is signed.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firmware_bridge.deploy.install import PYTHON, make_groups
from firmware_bridge.deploy.layout import USER, Layout
from firmware_bridge.deploy.release import (
    BUNDLE_FILE,
    CHOSEN,
    ENGINES,
    PROOF,
    TENSORRT,
    TRUSTED_KEYS,
    Description,
    environment_of,
    write_json,
)
from firmware_bridge.errors import BundleError, DeployError
from firmware_bridge.files import write_atomically

_PROOF_LIMIT_S = 600.0
# Two engines, each of which has a limit of its own (firmware_bridge/engines.py).
_ENGINES_LIMIT_S = 2700.0
# Whose members may use a GPU: the unit has the same (firmware_bridge/deploy/unit.py).
_GPU_GROUPS = ("video", "render")


def build_engines(layout: Layout, description: Description, *, trusted_keys: Path | None = None) -> dict[str, Any]:
    """Build what TensorRT engines a release may use, and record them. Where none can be built, the CPU scores.

    Args:
        layout: the device.
        description: the release.
        trusted_keys: whose signature counts; None: the release's own file.

    Returns:
        "engines": a row for each; "reason": why there are none, or empty.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    folder = layout.release(description.id)
    if not description.extra.get(TENSORRT):
        return {"engines": [], "reason": ""}
    account = pwd.getpwnam(USER)
    layout.engines.mkdir(exist_ok=True, mode=0o755)
    if os.geteuid() == 0:
        os.chown(layout.engines, account.pw_uid, account.pw_gid)
    keys = str(trusted_keys or folder / TRUSTED_KEYS)
    answer: dict[str, Any] = {"engines": [], "reason": ""}
    try:
        arguments = [str(folder / BUNDLE_FILE), keys, str(layout.engines)]
        done = _run(folder, "build_engines", arguments, limit_s=_ENGINES_LIMIT_S, gpu=True)
        answer.update(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        answer["reason"] = f"no engines within {_ENGINES_LIMIT_S:.0f} s"
    except (IndexError, ValueError, TypeError):
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        answer["reason"] = (_signal_name(done.returncode) or last[0])[:300]
    write_json(folder / ENGINES, answer)
    return answer


def prove(layout: Layout, description: Description, *, trusted_keys: Path | None = None) -> dict[str, Any]:
    """Let a release prove itself, and record what it chose. Nothing that runs is touched.

    Args:
        layout: the device.
        description: the release.
        trusted_keys: whose signature counts; None: the release's own file.

    Raises:
        BundleError: unsigned, not its own results here, no golden X-rays.
        DeployError: it gives no answer at all.
    """
    folder = layout.release(description.id)
    make_groups(description.unit)
    built = build_engines(layout, description, trusted_keys=trusted_keys)
    usable = any(not row["error"] for row in built["engines"])
    arguments = [str(folder / BUNDLE_FILE), str(trusted_keys or folder / TRUSTED_KEYS)]
    arguments += map(str, description.threads)
    try:
        answer = _answer(folder, [*arguments, f"engines={layout.engines}"] if usable else arguments, gpu=usable)
    except DeployError as error:
        if not usable:
            raise
        # A driver that takes the process with it must not keep the CPU from scoring.
        built = {"engines": [], "reason": f"the proof with TensorRT gave no answer: {error.came}"}
        answer = _answer(folder, arguments, gpu=False)
    if "error" in answer:
        raise BundleError(**answer["error"])
    if description.extra.get(TENSORRT):
        answer["tensorrt"] = why_not_tensorrt(answer, built)
    lines = chosen_settings(answer["chosen"], layout)
    write_atomically(folder / CHOSEN, ("\n".join(lines) + "\n").encode(), mode=0o644)
    write_json(folder / PROOF, answer)
    return dict(answer)


def _answer(folder: Path, arguments: Sequence[str], *, gpu: bool) -> dict[str, Any]:
    """What the proof of the release in `folder` says.

    Raises:
        DeployError: it says nothing.
    """
    try:
        done = _run(folder, "proof", arguments, limit_s=_PROOF_LIMIT_S, gpu=gpu)
    except subprocess.TimeoutExpired as error:
        raise _unproven(f"no answer within {_PROOF_LIMIT_S:.0f} s") from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise _unproven(_signal_name(done.returncode) or last[0]) from error
    return answer


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


def _run(
    folder: Path, module: str, arguments: Sequence[str], *, limit_s: float, gpu: bool
) -> subprocess.CompletedProcess[str]:
    """Run one of our modules as the service's user, of the release in `folder`.

    Raises:
        subprocess.TimeoutExpired: it took too long, and was ended.
    """
    account = pwd.getpwnam(USER)
    as_user: dict[str, object] = {}
    if os.geteuid() == 0:
        groups = [group.gr_gid for group in grp.getgrall() if gpu and group.gr_name in _GPU_GROUPS]
        as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [PYTHON, "-m", f"firmware_bridge.deploy.{module}", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=limit_s,
        check=False,
        cwd=folder,
        env=environment_of(folder),
        **as_user,  # type: ignore[call-overload]
    )
    return done


def _signal_name(code: int) -> str:
    return f"ended by {signal.Signals(-code).name}" if code < 0 else ""


def _unproven(came: str) -> DeployError:
    return DeployError(
        "the new release does not run on this device",
        expected="the golden X-rays to be scored by it",
        came=came[:300],
        do="check with `cxr-edge deploy --dry-run` that the target fits the device; what ran before still runs",
    )
