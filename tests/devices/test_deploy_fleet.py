"""Twenty devices at once, on one machine that plays them all: each ends up running, and the figures of it are printed.

Nothing here is measured against a clock that others share: what is asserted is that all of them run, and that the
workstation does for each what it does for one.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from emulated.host import CPU_QUOTA, Host
from emulated.workstation import Deployment, Workstation, require_runs

MakeHost = Callable[..., Host]
DEVICES = 20


class Measured:
    """Deploys, and prints what it took: seconds, processor seconds of the workstation and of the devices."""

    def __init__(self, workstation: Workstation) -> None:
        self._workstation = workstation

    def __call__(self, what: str, bundle: Path, hosts: Sequence[Host]) -> tuple[Deployment, float, float]:
        """(how it ended, seconds, processor seconds of the workstation)."""
        devices_s, own_s, start_s = _used_s(hosts), _children_s(), time.monotonic()
        done = self._workstation.deploy(bundle, "--at-once", str(DEVICES), hosts=hosts)
        took_s, own_s, devices_s = time.monotonic() - start_s, _children_s() - own_s, _used_s(hosts) - devices_s
        load = Path("/proc/loadavg").read_text().split()[0]
        sys.stderr.write(
            f"\n{what}, {len(hosts)} at once: {took_s:.1f} s; processor seconds: workstation {own_s:.1f}, "
            f"devices {devices_s:.1f}; load {load}\n"
        )
        return done.succeeded(), took_s, own_s


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _used_s(hosts: Sequence[Host]) -> float:
    return sum(host.processor_s() for host in hosts)


@pytest.mark.devices_all
@pytest.mark.xdist_group("fleet")  # two fleets at once need more inotify instances than a machine gives
@pytest.mark.parametrize("cores", [None, 0.08], ids=["sharing", "processors-of-their-own"])
def test_twenty_devices_at_once(
    make_host: MakeHost, workstation: Workstation, old: Path, new: Path, xray: Path, cores: float | None
) -> None:
    """`cores`: with twenty small shares of a core each is as slow among many as alone, as real devices are."""
    if cores and not CPU_QUOTA.exists():
        pytest.skip(f"needs {CPU_QUOTA}: version 1 of the processor's control groups")
    measured = Measured(workstation)
    alone = make_host(name="alone", cores=cores)
    workstation.deploy(old, "--dry-run", hosts=[alone])  # packages are fetched and packed once for all of them
    one = {
        "first": measured("first", old, [alone]),
        "unchanged": measured("unchanged", old, [alone]),
        "another model": measured("another model", new, [alone]),
    }
    hosts = [make_host(name=f"ward-{n}", wait=False, cores=cores) for n in range(1, DEVICES + 1)]
    for host in hosts:
        host.wait()
    for what, bundle, state in (
        ("first", old, "running"),
        ("unchanged", old, "nothing changed"),
        ("another model", new, "running"),
    ):
        done, took_s, own_s = measured(what, bundle, hosts)
        sys.stderr.write(f"{what}: {took_s / one[what][1]:.1f} times one device's time\n")
        assert done.states == [state] * DEVICES
        # What the workstation does for all (start, packages, archive) it does once, not for each.
        assert own_s < DEVICES * one[what][2]
    for host in hosts:
        require_runs(host, new, xray)
