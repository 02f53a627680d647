"""A Raspberry Pi's processor, emulated: the int8 model gives what it gives here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated.host import Host
from emulated.rootfs import DEBIAN_12_ARM
from emulated.site import PLACE, REPOSITORY, packages

from firmware_bridge.bundle import open_bundle

# XNNPACK chooses its kernels by what it reads here. With this machine's own lines an emulated process crashes in them;
# with none XNNPACK is silently off. These are a Cortex-A72's, the processor of a Raspberry Pi 4.
CPUINFO = "".join(
    f"""processor\t: {core}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
    for core in range(4)
)
SCORE = """
import json, platform, sys
import numpy as np
from firmware_bridge.bundle import open_bundle
with open_bundle(__import__("pathlib").Path(sys.argv[1])) as bundle:
    scorer = bundle.scorer(threads=1)
    interpreter = scorer.interpreter
    said = {"machine": platform.machine(), "runtime": interpreter.runtime, "delegate": interpreter.delegate}
    said["cases"] = []
    for case in bundle.manifest.golden:
        score = scorer.score(bundle.read(case.file))
        said["cases"].append({
            "file": case.file,
            "pixels": score.pixels.tolist(),
            "probability": score.probability,
            "own": score.output.probability,
            "features": score.output.features.astype(int).tolist(),
        })
print(json.dumps(said))
"""


def scored_there(host: Host, bundle: Path) -> Any:
    host.put("/root/cpuinfo", CPUINFO.encode())
    host.inside("mount", "--bind", "/root/cpuinfo", "/proc/cpuinfo")
    host.put("/root/bundle.cxr", bundle.read_bytes())
    host.put("/root/score.py", SCORE.encode())
    for path in sorted((REPOSITORY / "firmware_bridge").rglob("*.py")):
        host.put(f"/root/app/{path.relative_to(REPOSITORY)}", path.read_bytes())
    setting = ["env", "QEMU_CPU=cortex-a72", f"PYTHONPATH=/root/app:{PLACE}"]
    done = host.inside(*setting, "python3", "/root/score.py", "/root/bundle.cxr", timeout_s=300)
    return json.loads(done.stdout.splitlines()[-1])


def test_int8_on_aarch64_equals_x86_within_one_step(make_host: Callable[..., Host], old: Path) -> None:
    host = make_host(DEBIAN_12_ARM, layers=lambda: [packages(DEBIAN_12_ARM)])
    assert host.ssh("uname -m; sudo -n id -u", timeout_s=120).stdout.split() == ["aarch64", "0"]
    said = scored_there(host, old)
    assert (said["machine"], said["runtime"], said["delegate"]) == ("aarch64", "ai-edge-litert", "XNNPACK")
    with open_bundle(old) as bundle:
        scorer = bundle.scorer(threads=1)
        for there in said["cases"]:
            here = scorer.score(bundle.read(there["file"]))
            # Decoding and resizing too: the pixels are the same to the last bit.
            assert np.array_equal(np.asarray(there["pixels"]), here.pixels)
            steps = np.abs(np.asarray(there["features"]) - here.output.features.astype(int))
            assert steps.max() <= 1
            assert there["own"] == pytest.approx(here.output.probability, abs=1 / 256 + 1e-9)
            assert there["probability"] == pytest.approx(here.probability, abs=0.02)
        assert len(said["cases"]) >= 2
