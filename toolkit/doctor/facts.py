"""What the doctor reads from the machine. Reads only: nothing is changed, nothing is judged."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from firmware_bridge.shipped import shipped_names
from toolkit.extras import DISTRIBUTION, canonical, requirements
from toolkit.memory import available_bytes

PROBE_MODEL = Path(__file__).with_name("probe.int8.tflite")
PROBE_LIMIT_S = 60.0
# Programs that some commands use where they are there.
PROGRAMS = ("mosquitto", "storescp")


@dataclass(frozen=True, slots=True)
class Probe:
    """What an interpreter said when it ran a model; `error` is set where it could not."""

    model: str
    runtime: str = ""
    delegate: str = ""
    partitions: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """The state of a machine, as far as `cxr-edge` cares.

    Attributes:
        python: major, minor, micro.
        machine: as `uname -m` says.
        pointer_bits: 32 or 64, of the running Python (a 64-bit kernel may run a 32-bit system).
        libc: name and version, ("glibc", "2.36"); empty where it is not known.
        packages: canonical distribution name -> version, of all that is installed.
        requirements: extra ("" for the base) -> the packages it asks for; None where cxr-edge is not installed.
        programs: name -> found on PATH.
        environment: the variables that matter here, where they are set.
        folder: the folder whose disk was asked.
        clock_s: seconds since 1970, as the machine believes.
        newest_file_s: change time of the newest installed package: the real time cannot be before it.
        clock_synchronized: whether systemd-timesyncd has reached a time server; None where it does not run.
        shipped: names of the bundles that lie in the installed package.
    """

    python: tuple[int, int, int]
    machine: str
    pointer_bits: int
    libc: tuple[str, str]
    page_bytes: int
    packages: Mapping[str, str]
    requirements: Mapping[str, Sequence[str]] | None
    programs: Mapping[str, bool]
    environment: Mapping[str, str]
    folder: str
    free_disk_bytes: int
    available_memory_bytes: int | None
    clock_s: float
    newest_file_s: float
    clock_synchronized: bool | None
    shipped: Sequence[str]
    probes: tuple[Probe, ...] = field(default=())


def read_facts(folder: Path, *, models: Sequence[Path] = ()) -> Facts:
    """Read the machine.

    Args:
        folder: the folder to work in; the space on its disk is what counts.
        models: `.tflite` files to run beside the doctor's own small one.
    """
    return Facts(
        python=sys.version_info[:3],
        machine=platform.machine(),
        pointer_bits=struct.calcsize("P") * 8,
        libc=platform.libc_ver(),
        page_bytes=os.sysconf("SC_PAGE_SIZE"),
        packages=_packages(),
        requirements=_requirements(),
        programs={name: shutil.which(name) is not None for name in PROGRAMS},
        environment={name: os.environ[name] for name in ("TF_USE_LEGACY_KERAS",) if name in os.environ},
        folder=str(folder),
        free_disk_bytes=shutil.disk_usage(folder).free,
        available_memory_bytes=available_bytes(),
        clock_s=time.time(),
        newest_file_s=_newest_installed_s(),
        clock_synchronized=_clock_synchronized(),
        shipped=tuple(shipped_names()),
        probes=tuple(run_probe(model) for model in (PROBE_MODEL, *models)),
    )


def run_probe(model: Path) -> Probe:
    """Run one inference of `model` in a process of its own and hand back what its interpreter said."""
    command = [sys.executable, "-m", "toolkit.doctor.probe", str(model)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return Probe(model.name, error=f"no answer within {PROBE_LIMIT_S:.0f} s")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return Probe(model.name, error=f"the interpreter's process was ended by {name}")
    if done.returncode > 0:
        last = [line for line in done.stderr.splitlines() if line.strip()]
        return Probe(model.name, error=last[-1].strip() if last else f"exit code {done.returncode}")
    return Probe(model.name, **json.loads(done.stdout.splitlines()[-1]))


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        # A half-removed package leaves a folder without a name behind.
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(canonical(name), distribution.version)
    return found


def _requirements() -> Mapping[str, Sequence[str]] | None:
    try:
        return requirements(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None


def _newest_installed_s() -> float:
    """When the newest package was put here. A device without a battery-backed clock starts long before that."""
    folders = [Path(entry) for entry in sys.path if entry.endswith("-packages")]
    changed = [path.stat().st_mtime for folder in folders if folder.is_dir() for path in folder.glob("*.dist-info")]
    return max(changed, default=0.0)


def _clock_synchronized() -> bool | None:
    service = Path("/run/systemd/timesync")
    return (service / "synchronized").exists() if service.is_dir() else None
