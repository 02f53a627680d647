"""Targets and preflight: which packages a device gets, and what stands against it, in words that help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge.deploy import boot
from firmware_bridge.errors import ConfigError, PreflightError
from toolkit.deploy.deploy import fit_target
from toolkit.deploy.facts import Facts, parse_facts
from toolkit.deploy.inventory import Host
from toolkit.deploy.targets import choose_target, known_names, load_targets

NOW_S = 1_790_000_000.0
PI_12 = Facts(
    machine="aarch64",
    pointer_bits=64,
    python=(3, 11, 2),
    python_path="/usr/bin/python3",
    glibc="2.36",
    glibcxx="3.4.30",
    os_id="debian",
    os_like="",
    os_version="12",
    os_name="Debian GNU/Linux 12 (bookworm)",
    model="Raspberry Pi 4 Model B Rev 1.4",
    jetpack="",
    tensorrt="",
    page_bytes=4096,
    cpus=4,
    memory_bytes=4_000_000_000,
    memory_available_bytes=3_000_000_000,
    disk_free_bytes=8_000_000_000,
    disk_read_only=False,
    clock_s=NOW_S - 5,
    clock_synchronized=True,
    systemd="252",
    uid=0,
    hostname="pi",
    boot_id="",
)
PI_13 = replace(PI_12, python=(3, 13, 1), glibc="2.41", glibcxx="3.4.33", os_version="13", systemd="257")
JETSON = replace(
    PI_12,
    python=(3, 10, 12),
    glibc="2.35",
    os_id="ubuntu",
    os_like="debian",
    os_version="22.04",
    model="NVIDIA Jetson Orin Nano Developer Kit",
    systemd="249",
)
VM = replace(PI_12, machine="x86_64", model="")
BOARD = replace(PI_12, model="Some Board")


@pytest.mark.parametrize(
    ("facts", "wished", "name"),
    [
        (PI_12, "auto", "rpi-os-12"),
        (PI_13, "rpi", "rpi-os-13"),
        (JETSON, "auto", "jetpack-6"),
        (JETSON, "jetson", "jetpack-6"),
        (VM, "auto", "linux-x86-64"),
        (BOARD, "auto", "linux-aarch64"),
        (BOARD, "rpi", "rpi-os-12"),
        (BOARD, "linux-aarch64", "linux-aarch64"),
    ],
)
def test_a_device_gets_its_target(facts: Facts, wished: str, name: str) -> None:
    assert fit_target(Host("pi", "pi", target=wished), facts, now_s=NOW_S).name == name


@pytest.mark.parametrize(
    ("facts", "wished", "reason"),
    [
        (replace(PI_12, machine="armv7l", pointer_bits=32), "auto", "32 bits"),
        (replace(PI_12, pointer_bits=32), "rpi", "32-bit Python"),
        (replace(PI_12, python=(3, 9, 2), glibc="2.31", glibcxx="3.4.28", os_version="11"), "rpi", "Python 3.9"),
        (replace(PI_12, glibc="2.31"), "rpi", "glibc 2.31; needed: 2.34"),
        (replace(PI_12, glibcxx="3.4.28"), "rpi", "GLIBCXX_3.4.28; needed: 3.4.30"),
        (replace(PI_12, glibcxx=""), "rpi", "apt-get install libstdc"),
        (replace(PI_12, glibc=""), "rpi", "not glibc"),
        (replace(PI_12, systemd=""), "rpi", "systemd does not run"),
        (replace(PI_12, systemd="241"), "rpi", "systemd 241"),
        (replace(PI_12, memory_bytes=256_000_000), "rpi", "256 MB of memory"),
        (replace(PI_12, disk_free_bytes=50_000_000), "rpi", "50 MB free"),
        (replace(PI_12, disk_read_only=True), "rpi", "only be read"),
        (replace(PI_12, clock_s=0.0), "rpi", "its clock says 1970-01-01T00:00:00Z"),
        (replace(PI_12, clock_s=NOW_S + 40 * 86400), "rpi", "its clock says"),
        (VM, "rpi", "needs aarch64, this is x86_64"),
        (VM, "jetson", "needs aarch64, this is x86_64"),
        (PI_12, "jetson", "needs ubuntu, this is debian"),
        (replace(PI_12, os_id="alpine"), "auto", "this is alpine"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(facts: Facts, wished: str, reason: str) -> None:
    with pytest.raises(PreflightError) as caught:
        fit_target(Host("pi", "pi", target=wished), facts, now_s=NOW_S)
    assert reason in caught.value.came
    assert "nothing was changed" in caught.value.do


def test_an_unknown_target_names_the_known() -> None:
    with pytest.raises(ConfigError, match="rpi-os-12"):
        choose_target("toaster", PI_12)
    assert {"auto", "rpi", "jetson", "linux"} <= set(known_names())


def test_every_target_has_a_python_and_a_library_that_the_runtime_takes() -> None:
    needs, targets = load_targets()
    assert {target.python for target in targets if target.python} <= set(needs.python)
    assert all(target.threads and target.memory_max_mb > 0 for target in targets)
    assert len({target.name for target in targets}) == len(targets)


def test_tensorrt_is_known_by_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot, "LIBRARY_FOLDERS", (str(tmp_path / "none"), str(tmp_path)))
    assert boot.tensorrt() == ""
    for name in ("libnvinfer.so.10", "libnvinfer.so.10.3.0", "libnvinfer.so.8.6.2", "libnvinfer_plugin.so.11.0.0"):
        (tmp_path / name).touch()
    assert boot.tensorrt() == "10.3.0"


def test_the_facts_of_this_machine_are_read_as_they_are_sent() -> None:
    read: dict[str, Any] = boot.facts()
    facts = parse_facts("here", read)
    assert facts.python_minor == f"{facts.python[0]}.{facts.python[1]}"
    assert facts.memory_bytes > facts.memory_available_bytes > 0
