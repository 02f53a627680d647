"""What the doctor concludes from the facts. Pure: the same facts give the same findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

from firmware_bridge.shipped import DEFAULT, PREFIX
from toolkit.doctor.clashes import check_clashes
from toolkit.doctor.facts import Facts
from toolkit.doctor.finding import Finding, Status, note, ok, problem

__all__ = ["Finding", "Status", "examine", "healthy"]

OLDEST_PYTHON = (3, 10)
NEWEST_PYTHON = (3, 13)
# Architectures for which the runtimes have wheels.
MACHINES = ("x86_64", "aarch64", "arm64", "AMD64")
# ai-edge-litert's aarch64 wheels are tagged for an older glibc than their symbols really ask for.
AARCH64_GLIBC = (2, 34)
USUAL_PAGE_BYTES = 4096
MIB = 1 << 20
AGENT_DISK_BYTES = 200 * MIB
AGENT_MEMORY_BYTES = 200 * MIB
TRAIN_DISK_BYTES = 2048 * MIB
TRAIN_MEMORY_BYTES = 4096 * MIB
FAR_FUTURE_YEAR = 2100


def examine(facts: Facts) -> tuple[Finding, ...]:
    """Judge the facts: what is well, what to know, and what would go wrong, each with the command that mends it."""
    checks = (
        _check_python,
        _check_machine,
        _check_pages,
        _check_installed,
        _check_shipped,
        _check_extras,
        check_clashes,
        _check_delegate,
        _check_programs,
        _check_disk,
        _check_memory,
        _check_clock,
    )
    return tuple(finding for check in checks for finding in check(facts))


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether nothing among the findings is a problem."""
    return all(finding.status is not Status.PROBLEM for finding in findings)


def _check_python(facts: Facts) -> Iterator[Finding]:
    version = ".".join(map(str, facts.python))
    if OLDEST_PYTHON <= facts.python[:2] <= NEWEST_PYTHON:
        yield ok("python", f"Python {version}")
    else:
        yield problem(
            "python",
            f"Python {version}; cxr-edge and its runtimes are made for 3.10 to 3.13",
            "sudo apt-get install python3 python3-venv, then make setup PYTHON=python3.11 (or another of 3.10 to 3.13)",
        )


def _check_machine(facts: Facts) -> Iterator[Finding]:
    if facts.pointer_bits != 64:
        yield problem(
            "architecture",
            f"this Python is {facts.pointer_bits}-bit ({facts.machine}): neither runtime has a 32-bit package",
            "install the 64-bit system (for a Raspberry Pi: Raspberry Pi OS 64-bit); "
            "'getconf LONG_BIT' must then say 64",
        )
    elif facts.machine not in MACHINES:
        yield problem(
            "architecture",
            f"{facts.machine}: the runtimes are packaged for x86_64 and aarch64 only",
            "use a device with an x86_64 or aarch64 processor, or build ai-edge-litert from its source",
        )
    else:
        yield ok("architecture", f"{facts.machine}, {facts.pointer_bits}-bit")
    name, version = facts.libc
    if facts.machine in ("aarch64", "arm64") and name == "glibc" and _numbers(version) < AARCH64_GLIBC:
        yield problem(
            "C library",
            f"glibc {version}; ai-edge-litert on this architecture needs {AARCH64_GLIBC[0]}.{AARCH64_GLIBC[1]}",
            "upgrade the system (Debian 12, Ubuntu 22.04, JetPack 6 or later), "
            "or with Python 3.10 or 3.11: pip install 'cxr-edge[tflite-runtime]'",
        )


def _check_pages(facts: Facts) -> Iterator[Finding]:
    if facts.page_bytes > USUAL_PAGE_BYTES:
        yield note(
            "page size",
            f"the kernel's pages have {facts.page_bytes // 1024} KiB; "
            "a library linked for 4 KiB fails to load with 'ELF load command alignment'",
            "if that happens on a Raspberry Pi 5: add kernel=kernel8.img to /boot/firmware/config.txt and reboot",
        )


def _check_installed(facts: Facts) -> Iterator[Finding]:
    if facts.requirements is None:
        yield problem("cxr-edge", "the package itself is not installed in this Python", "pip install .")
        return
    missing = [name for name in facts.requirements.get("", ()) if name not in facts.packages]
    if missing == ["ai-edge-litert"] and "tflite-runtime" in facts.packages:
        missing = []  # the other runtime stands in its place
    if missing:
        yield problem("cxr-edge", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        yield ok("cxr-edge", f"{facts.packages.get('cxr-edge', 'installed')}, with all that the device part needs")


def _check_shipped(facts: Facts) -> Iterator[Finding]:
    if DEFAULT in facts.shipped:
        yield ok("models", f"{', '.join(PREFIX + name for name in facts.shipped)} come with the package")
    else:
        yield problem(
            "models",
            f"the package lacks {PREFIX}{DEFAULT}, with which an agent scores that is given no bundle",
            "install cxr-edge again from a whole clone: pip install --force-reinstall --no-deps .",
        )


def _check_extras(facts: Facts) -> Iterator[Finding]:
    for extra, names in sorted((facts.requirements or {}).items()):
        if extra in ("", "tflite-runtime", "dev"):
            continue
        missing = [name for name in names if name not in facts.packages]
        mend = f"in the clone of cxr-edge: pip install '.[{extra}]'"
        if not missing:
            yield ok(f"extra {extra}", "installed")
        else:
            yield note(f"extra {extra}", f"missing: {', '.join(missing)}; commands that need it will say so", mend)


def _check_delegate(facts: Facts) -> Iterator[Finding]:
    for probe in facts.probes:
        check = f"inference ({probe.model})"
        if probe.error:
            yield problem(
                check,
                f"the interpreter cannot run it: {probe.error}",
                "pip install --force-reinstall ai-edge-litert; for a model of yours, export it again",
            )
        elif probe.delegate == "none":
            yield problem(
                check,
                f"{probe.runtime} runs it without a delegate, many times slower than with XNNPACK",
                "pip install ai-edge-litert",
            )
        elif probe.partitions > 1:
            yield note(
                check,
                f"{probe.runtime}, {probe.delegate}, in {probe.partitions} partitions: each border costs time",
                "export the model with cxr-edge train-qat, which gives one partition",
            )
        else:
            yield ok(check, f"{probe.runtime}, {probe.delegate} in use, one partition")


def _check_programs(facts: Facts) -> Iterator[Finding]:
    if facts.programs.get("mosquitto"):
        yield ok("mosquitto", "installed")
    else:
        yield note(
            "mosquitto",
            "not here; results over MQTT need a broker, here or elsewhere, and the agent works without any",
            "sudo apt-get install mosquitto",
        )
    if facts.programs.get("storescp"):
        yield ok("dcmtk", "installed")
    else:
        yield note("dcmtk", "not here; only for receiving over the DICOM network", "sudo apt-get install dcmtk")


def _check_disk(facts: Facts) -> Iterator[Finding]:
    free = f"{facts.free_disk_bytes // MIB:,} MiB free for {facts.folder}"
    if facts.free_disk_bytes < AGENT_DISK_BYTES:
        yield problem("disk", free, f"du -xh --max-depth=2 {facts.folder} | sort -h | tail shows what to remove")
    elif facts.free_disk_bytes < TRAIN_DISK_BYTES and "tensorflow" in facts.packages:
        yield note(
            "disk",
            f"{free}: enough to score, little to train",
            "put runs on another disk: cxr-edge train-qat --out FOLDER",
        )
    else:
        yield ok("disk", free)


def _check_memory(facts: Facts) -> Iterator[Finding]:
    if facts.available_memory_bytes is None:
        yield note("memory", "this system does not say how much is free")
        return
    free = f"{facts.available_memory_bytes // MIB:,} MiB available"
    if facts.available_memory_bytes < AGENT_MEMORY_BYTES:
        yield problem("memory", free, "ps aux --sort=-rss | head shows which programs hold it; end what isn't needed")
    elif facts.available_memory_bytes < TRAIN_MEMORY_BYTES and "tensorflow" in facts.packages:
        yield note("memory", f"{free}: enough to score, little to train", "cxr-edge train-qat --batch-size 8")
    else:
        yield ok("memory", free)


def _check_clock(facts: Facts) -> Iterator[Finding]:
    # A record with a wrong time is worse than one without; a Pi has no clock that outlives its power.
    now = datetime.fromtimestamp(facts.clock_s, timezone.utc)
    mend = "sudo timedatectl set-ntp true, or sudo date --set '2026-01-31 12:00'"
    if facts.clock_s < facts.newest_file_s - 86400:
        newest = datetime.fromtimestamp(facts.newest_file_s, timezone.utc)
        yield problem("clock", f"it says {now:%Y-%m-%d %H:%M} UTC, but packages were installed {newest:%Y-%m-%d}", mend)
    elif now.year >= FAR_FUTURE_YEAR:
        yield problem("clock", f"it says {now:%Y-%m-%d %H:%M} UTC", mend)
    elif facts.clock_synchronized is False:
        yield note("clock", f"{now:%Y-%m-%d %H:%M} UTC, not yet set from a time server", mend)
    else:
        yield ok("clock", f"{now:%Y-%m-%d %H:%M} UTC")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
