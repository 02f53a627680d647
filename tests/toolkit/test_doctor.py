from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toolkit.doctor import Facts, Finding, Probe, Status, examine, healthy, read_facts
from toolkit.doctor.facts import PROBE_MODEL, run_probe

MIB = 1 << 20
XNNPACK = Probe("probe.int8.tflite", runtime="ai-edge-litert", delegate="XNNPACK", partitions=1)
WELL = Facts(
    python=(3, 11, 7),
    machine="aarch64",
    pointer_bits=64,
    libc=("glibc", "2.36"),
    page_bytes=4096,
    packages={"cxr-edge": "0.1.0", "numpy": "2.4.6", "ai-edge-litert": "2.3.0", "opencv-python-headless": "5.0.0"},
    requirements={"": ("numpy", "ai-edge-litert"), "train": ("tensorflow",)},
    programs={"mosquitto": True, "storescp": True},
    environment={},
    folder="/srv/xrays",
    free_disk_bytes=8000 * MIB,
    available_memory_bytes=3000 * MIB,
    clock_s=1.8e9,
    newest_file_s=1.79e9,
    clock_synchronized=True,
    shipped=("kermany",),
    probes=(XNNPACK,),
)


def changed(**change: Any) -> Facts:
    return dataclasses.replace(WELL, **change)


def with_packages(**packages: str) -> Facts:
    return changed(packages={**WELL.packages, **{name.replace("_", "-"): at for name, at in packages.items()}})


def worse(facts: Facts) -> list[Finding]:
    """The findings that a well machine does not have."""
    return [finding for finding in examine(facts) if finding not in examine(WELL)]


def test_a_well_machine_has_no_problem_and_one_missing_extra() -> None:
    findings = examine(WELL)
    assert healthy(findings)
    assert [finding.check for finding in findings if finding.status is Status.NOTE] == ["extra train"]


@pytest.mark.parametrize(
    ("facts", "check", "said", "mend"),
    [
        (changed(shipped=()), "models", "cxr-edge/kermany", "pip install"),
        (changed(python=(3, 9, 2)), "python", "3.10 to 3.13", "python3.11"),
        (changed(python=(3, 14, 0)), "python", "3.14.0", "python3.11"),
        (changed(machine="armv7l", pointer_bits=32), "architecture", "32-bit", "64-bit system"),
        (changed(pointer_bits=32), "architecture", "32-bit (aarch64)", "64-bit system"),
        (changed(machine="riscv64"), "architecture", "riscv64", "x86_64 or aarch64"),
        (changed(libc=("glibc", "2.31")), "C library", "2.31", "upgrade"),
        (changed(requirements=None), "cxr-edge", "not installed", "pip install ."),
        (changed(packages={"numpy": "2.4.6"}), "cxr-edge", "ai-edge-litert", "pip install ai-edge-litert"),
        (with_packages(tflite_runtime="2.14.0"), "versions", "NumPy 2.4.6", "numpy<2"),
        (with_packages(opencv_python="5.0.0"), "versions", "cv2", "pip uninstall -y opencv-python"),
        (with_packages(albumentationsx="2.0.9"), "licences", "AGPL", "albumentations==2.0.8"),
        (with_packages(tensorflow="2.21.0", tf_keras="2.20.1"), "versions", "2.20.1", "tf_keras==2.21.*"),
        (changed(probes=(Probe("m", error="ended by SIGILL"),)), "inference (m)", "SIGILL", "pip install"),
        (changed(probes=(Probe("m", "tflite-runtime", "none"),)), "inference (m)", "without a delegate", "pip install"),
        (changed(free_disk_bytes=90 * MIB), "disk", "90 MiB", "du "),
        (changed(available_memory_bytes=90 * MIB), "memory", "90 MiB", "ps "),
        (changed(clock_s=0.0), "clock", "1970-01-01", "timedatectl"),
        (changed(clock_s=4.3e9), "clock", "2106", "timedatectl"),
    ],
)
def test_each_problem_is_named_with_what_mends_it(facts: Facts, check: str, said: str, mend: str) -> None:
    problems = [finding for finding in worse(facts) if finding.status is Status.PROBLEM]
    assert [finding.check for finding in problems] == [check]
    assert said in problems[0].message
    assert mend in problems[0].mend
    assert not healthy(examine(facts))


@pytest.mark.parametrize(
    ("facts", "check", "said"),
    [
        (changed(page_bytes=16384), "page size", "16 KiB"),
        (
            changed(environment={"TF_USE_LEGACY_KERAS": "0"}, packages={**WELL.packages, "tensorflow": "2.21.0"}),
            "versions",
            "Keras 3",
        ),
        (with_packages(pylibjpeg_libjpeg="2.3"), "licences", "GPL-3"),
        (changed(programs={}), "mosquitto", "broker"),
        (changed(clock_synchronized=False), "clock", "time server"),
        (changed(available_memory_bytes=None), "memory", "does not say"),
        (
            changed(probes=(dataclasses.replace(XNNPACK, partitions=17),)),
            "inference (probe.int8.tflite)",
            "17 partitions",
        ),
    ],
)
def test_what_is_only_worth_knowing_is_no_problem(facts: Facts, check: str, said: str) -> None:
    findings = examine(facts)
    assert healthy(findings)
    assert any(finding.check == check and said in finding.message for finding in findings)


def test_the_other_runtime_stands_in_for_ai_edge_litert() -> None:
    facts = changed(packages={"numpy": "1.26.4", "tflite-runtime": "2.14.0"})
    assert healthy(examine(facts))


def test_this_machines_facts_are_read() -> None:
    facts = read_facts(Path.cwd())
    assert facts.python == sys.version_info[:3]
    assert facts.packages["cxr-edge"]
    assert facts.free_disk_bytes > 0
    assert facts.available_memory_bytes is None or facts.available_memory_bytes > 0
    assert facts.probes[0].error == ""
    assert facts.probes[0].delegate == "XNNPACK"


def test_a_broken_model_is_reported_and_does_not_end_the_doctor(tmp_path: Path) -> None:
    broken = tmp_path / "broken model.tflite"
    broken.write_bytes(PROBE_MODEL.read_bytes()[:100])
    assert run_probe(broken).error


def test_the_command_prints_json_and_its_exit_code_says_how_it_stands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "toolkit.cli.main", "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["healthy"] else 1)
    assert "Not for diagnosis" in report["notice"]
    assert {finding["status"] for finding in report["findings"]} <= {"ok", "note", "problem"}


def test_the_command_ends_with_the_notice_and_needs_no_tensorflow() -> None:
    code = "import sys; from toolkit.cli.main import run; run(['doctor']); sys.exit('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "Not for diagnosis" in done.stdout.splitlines()[-1]
