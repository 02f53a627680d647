"""The kinds of devices that are known, and what stands against a particular one. Data in `targets.toml`."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from firmware_bridge.errors import ConfigError
from toolkit.deploy.facts import Facts
from toolkit.deploy.toml import read_toml

_TABLE = Path(__file__).with_name("targets.toml")
# A clock further from the workstation's than this makes certificates, signatures' times and results wrong.
_CLOCK_OFF_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of device; see `targets.toml`. Empty means any."""

    name: str
    family: str
    title: str
    machine: str
    os: tuple[str, ...]
    glibc: str
    threads: tuple[int, ...]
    memory_max_mb: int
    model: str = ""
    os_version: str = ""
    python: str = ""
    accelerator: bool = False


@dataclass(frozen=True, slots=True)
class Needs:
    """What every device must have."""

    glibc: str
    glibcxx: str
    python: tuple[str, ...]
    pointer_bits: int
    systemd: int
    disk_mb: int
    memory_mb: int
    clock_after: str


@functools.cache
def load_targets() -> tuple[Needs, tuple[Target, ...]]:
    """What `targets.toml` says."""
    content = read_toml(_TABLE)
    needs = Needs(**_frozen(content["needs"]))
    return needs, tuple(Target(**_frozen(table)) for table in content["target"])


def _frozen(table: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def known_names() -> list[str]:
    """Everything that `--target` may be."""
    _, targets = load_targets()
    return ["auto", *dict.fromkeys(target.family for target in targets), *(target.name for target in targets)]


def require_target(wished: str) -> None:
    """Whether there is such a target.

    Raises:
        ConfigError: there is none.
    """
    if wished not in known_names():
        raise ConfigError(
            f"there is no target '{wished}'",
            expected="one of " + ", ".join(known_names()),
            came=wished,
            do="mend --target; auto finds out by itself",
        )


def choose_target(wished: str, facts: Facts) -> Target | None:
    """The target of a device: the wished one, or the first that fits; None where none fits.

    Raises:
        ConfigError: there is no such target.
    """
    require_target(wished)
    _, targets = load_targets()
    asked = [target for target in targets if wished in ("auto", target.family, target.name)]
    fitting = [target for target in asked if not list(_misfits(target, facts, by_model=wished == "auto"))]
    return fitting[0] if fitting else None


def misfits(wished: str, facts: Facts) -> list[str]:
    """Why a device is none of the wished targets."""
    _, targets = load_targets()
    asked = [target for target in targets if wished in ("auto", target.family, target.name)]
    return [f"{one.name}: {', '.join(_misfits(one, facts, by_model=wished == 'auto'))}" for one in asked]


def _misfits(target: Target, facts: Facts, *, by_model: bool) -> Iterator[str]:
    if facts.machine != target.machine:
        yield f"needs {target.machine}, this is {facts.machine}"
    if facts.os_id not in target.os and not set(facts.os_like.split()) & set(target.os):
        yield f"needs {' or '.join(target.os)}, this is {facts.os_id or 'unknown'}"
    if target.os_version and facts.os_version != target.os_version:
        yield f"needs version {target.os_version}, this is {facts.os_version}"
    if target.python and facts.python_minor != target.python:
        yield f"needs Python {target.python}, this has {facts.python_minor}"
    if by_model and target.model and target.model not in facts.model:
        yield f"needs a {target.model}"


def preflight(facts: Facts, target: Target | None, *, wished: str, now_s: float) -> list[str]:
    """Everything that stands against a device, each with what to do; empty: it is fit.

    Args:
        facts: of the device.
        target: as `choose_target` found it.
        wished: what was asked for.
        now_s: the workstation's time, seconds since 1970.
    """
    needs, _ = load_targets()
    found = [*_against_system(facts, needs), *_against_room(facts, needs), *_against_clock(facts, needs, now_s)]
    if target is None and not found:
        reasons = "; ".join(misfits(wished, facts))
        found.append(f"no target '{wished}' fits this device ({reasons}): give another --target, or auto")
    return found


def _against_system(facts: Facts, needs: Needs) -> Iterator[str]:
    if facts.pointer_bits != needs.pointer_bits or facts.machine in ("armv7l", "armv6l", "i686", "i386"):
        yield (
            f"the system has 32 bits ({facts.machine}, {facts.pointer_bits}-bit Python), and no runtime is built for "
            "that: install the 64-bit edition of its system"
        )
    if facts.python_minor not in needs.python:
        yield f"Python {facts.python_minor}; needed: {', '.join(needs.python)}: update the device's system"
    if not facts.glibc:
        yield "its C library is not glibc: use Debian, Ubuntu or Raspberry Pi OS"
    elif _numbers(facts.glibc) < _numbers(needs.glibc):
        yield f"glibc {facts.glibc}; needed: {needs.glibc} or later: update the device's system"
    if not facts.glibcxx:
        yield "libstdc++ is not there: apt-get install libstdc++6"
    elif _numbers(facts.glibcxx) < _numbers(needs.glibcxx):
        yield f"libstdc++ with GLIBCXX_{facts.glibcxx}; needed: {needs.glibcxx} or later: update the device's system"
    if not facts.systemd:
        yield "systemd does not run there, and it is what keeps the agent up: use a system that boots with it"
    elif 0 < facts.systemd_version < needs.systemd:
        yield f"systemd {facts.systemd}; needed: {needs.systemd} or later: update the device's system"


def _against_room(facts: Facts, needs: Needs) -> Iterator[str]:
    if facts.disk_read_only:
        yield "its disk can only be read (a worn SD card turns so): replace the card, or mount it writable"
    elif facts.disk_free_bytes < needs.disk_mb * 1_000_000:
        free_mb = facts.disk_free_bytes // 1_000_000
        yield f"{free_mb} MB free for /opt/cxr-edge; needed: {needs.disk_mb} MB: free some space (df -h, apt-get clean)"
    if facts.memory_bytes < needs.memory_mb * 1_000_000:
        yield f"{facts.memory_bytes // 1_000_000} MB of memory; needed: {needs.memory_mb} MB: use a larger device"


def _against_clock(facts: Facts, needs: Needs, now_s: float) -> Iterator[str]:
    earliest_s = datetime.fromisoformat(needs.clock_after.replace("Z", "+00:00")).timestamp()
    if facts.clock_s < earliest_s or abs(facts.clock_s - now_s) > _CLOCK_OFF_S:
        here = datetime.fromtimestamp(now_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        yield f"its clock says {facts.clock}, ours {here}: set it (timedatectl set-ntp true), results carry its time"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
