"""Deployments that are cut off at any point: the old release runs, or the new one, proven; the next run completes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from emulated.agent import until
from emulated.host import Host
from emulated.workstation import Deployment, Workstation, finish, parts, require_runs

from firmware_bridge.deploy.layout import SERVICE

PADDING_BYTES = 24_000_000
MBIT_PER_S = 40  # so that the padding travels for about five seconds


@pytest.fixture(scope="session")
def large(the_workstation: Workstation) -> Path:
    """A newer bundle that takes a while to arrive."""
    return the_workstation.bundle("large", created="2026-04-01T00:00:00Z", padding_bytes=PADDING_BYTES)


def start_and_wait_for_upload(
    workstation: Workstation, host: Host, bundle: Path, *options: str
) -> subprocess.Popen[str]:
    """A deployment that is in the middle of its upload."""
    host.cable.throttle(mbit_per_s=MBIT_PER_S)
    process = workstation.start(*workstation.deploy_words(bundle, *options), hosts=[host])

    def under_way() -> bool:
        assert process.poll() is None, finish(process).stderr
        return any(path.stat().st_size > 0 for part in parts(host) for path in part.rglob("*.part") if path.exists())

    until(under_way, timeout_s=120, what="bytes of the new bundle on the device")
    return process


def ended(process: subprocess.Popen[str]) -> Deployment:
    with process:
        return Deployment(finish(process))


def require_completes(workstation: Workstation, host: Host, bundle: Path, xray: Path) -> None:
    """That the next run does what the one before could not."""
    workstation.deploy(bundle, hosts=[host]).succeeded()
    require_runs(host, bundle, xray)
    assert parts(host) == []
    assert workstation.deploy(bundle, hosts=[host]).succeeded().states == ["nothing changed"]


def test_a_connection_cut_during_the_upload(
    deployed: Host, workstation: Workstation, old: Path, large: Path, xray: Path
) -> None:
    process = start_and_wait_for_upload(workstation, deployed, large)
    deployed.cable.cut()
    ended(process).failed("HostError", "again")
    require_runs(deployed, old, xray)
    deployed.cable.mend()
    deployed.cable.unthrottle()
    require_completes(workstation, deployed, large, xray)


def test_a_disk_that_fills_during_the_upload(
    make_deployed: Callable[..., Host], workstation: Workstation, old: Path, large: Path, xray: Path
) -> None:
    deployed = make_deployed(disk="1200m")
    process = start_and_wait_for_upload(workstation, deployed, large)
    process.send_signal(signal.SIGSTOP)  # else the upload may be faster than the filling
    filler = deployed.fill_disk(leave_bytes=200_000)
    process.send_signal(signal.SIGCONT)
    ended(process).failed("ResourceError", "disk is full", "free some space")
    filler.unlink()
    require_runs(deployed, old, xray)
    deployed.cable.unthrottle()
    require_completes(workstation, deployed, large, xray)


def test_power_lost_during_the_upload(
    deployed: Host, workstation: Workstation, old: Path, large: Path, xray: Path
) -> None:
    process = start_and_wait_for_upload(workstation, deployed, large)
    deployed.power_off()
    ended(process).failed("HostError", "again")
    deployed.boot()
    until(lambda: deployed.show(SERVICE, "ActiveState") == "active", what="the service to start with the machine")
    require_runs(deployed, old, xray)
    deployed.cable.unthrottle()
    require_completes(workstation, deployed, large, xray)


def test_bytes_that_change_while_they_arrive(
    deployed: Host, workstation: Workstation, old: Path, large: Path, xray: Path
) -> None:
    process = start_and_wait_for_upload(workstation, deployed, large)
    (part,) = (path for folder in parts(deployed) for path in folder.rglob("*.part"))
    with part.open("r+b") as file:  # a worn SD card: what is read back is not what was written
        file.write(b"\0" * 64)
    ended(process).failed("DeployError", "what arrived is not what was sent", "deploy again")
    require_runs(deployed, old, xray)
    deployed.cable.unthrottle()
    require_completes(workstation, deployed, large, xray)


def test_files_that_rot_later_are_seen_and_sent_again(
    deployed: Host, workstation: Workstation, old: Path, new: Path, xray: Path
) -> None:
    (file,) = (deployed.root / "opt/cxr-edge/layers").glob("*/numpy/version.py")
    sound = file.read_bytes()

    def rot() -> None:
        file.write_bytes(sound.replace(b"version", b"noisrev"))

    def require_mended(bundle: Path, *options: str) -> None:
        mended = workstation.deploy(bundle, *options, hosts=[deployed]).succeeded()
        assert any("damaged there" in step for step in mended.hosts[0]["steps"])
        assert file.read_bytes() == sound
        require_runs(deployed, bundle, xray)

    rot()
    require_mended(old)
    # A worn card tells nobody: such a file is seen by whatever reads it, which is every run that changes something.
    state = file.stat()
    rot()
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert workstation.deploy(old, hosts=[deployed]).succeeded().states == ["nothing changed"]
    require_mended(new)
    state = file.stat()
    rot()
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    require_mended(new, "--every-byte")


def switching(host: Host) -> bool:
    return (host.root / "opt/cxr-edge/activating").is_symlink()


def test_a_connection_cut_during_the_switch(deployed: Host, workstation: Workstation, new: Path, xray: Path) -> None:
    process = workstation.start(*workstation.deploy_words(new), hosts=[deployed])
    until(lambda: switching(deployed), timeout_s=120, what="the switch")
    deployed.cable.cut()
    # The device needs nobody: it proves the new release and settles the switch alone.
    require_runs(deployed, new, xray)
    deployed.cable.mend()
    ended(process).succeeded()
    assert workstation.deploy(new, hosts=[deployed]).succeeded().states == ["nothing changed"]


def test_a_connection_cut_during_a_rollback(
    deployed: Host, workstation: Workstation, old: Path, new: Path, xray: Path
) -> None:
    workstation.deploy(new, hosts=[deployed]).succeeded()
    process = workstation.start("rollback", "--watch", "1", hosts=[deployed])
    until(lambda: switching(deployed), timeout_s=120, what="the switch")
    deployed.cable.cut()
    require_runs(deployed, old, xray)
    deployed.cable.mend()
    told, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "runs again" in told


def test_a_disk_that_fills_during_the_switch(
    make_deployed: Callable[..., Host], workstation: Workstation, old: Path, new: Path, xray: Path
) -> None:
    deployed = make_deployed(disk="1200m")
    process = workstation.start(*workstation.deploy_words(new), hosts=[deployed])
    until(lambda: switching(deployed), timeout_s=120, what="the switch")
    filler = deployed.fill_disk(leave_bytes=2_000_000)
    ended(process).failed("RolledBack", "nothing: disk: ", "deploy again")
    filler.unlink()
    require_runs(deployed, old, xray)
    require_completes(workstation, deployed, new, xray)


def test_power_lost_during_the_switch(
    deployed: Host, workstation: Workstation, old: Path, new: Path, xray: Path
) -> None:
    process = workstation.start(*workstation.deploy_words(new), hosts=[deployed])
    until(lambda: switching(deployed), timeout_s=120, what="the switch")
    deployed.power_off()
    process.kill()
    process.communicate()
    deployed.boot()
    # Whichever of the two it is, it was proven, and nothing is left unsettled.
    require_runs_either(deployed, old, new, xray)
    require_completes(workstation, deployed, new, xray)


def require_runs_either(host: Host, old: Path, new: Path, xray: Path) -> None:
    try:
        require_runs(host, new, xray)
    except AssertionError:
        require_runs(host, old, xray)


@pytest.mark.parametrize(
    "points", [3, pytest.param(20, marks=pytest.mark.devices_all)], ids=lambda points: f"{points}-points"
)
def test_a_deployer_killed_at_random_points(
    deployed: Host, workstation: Workstation, old: Path, large: Path, xray: Path, points: int
) -> None:
    deployed.cable.throttle(mbit_per_s=200)
    bundles = [large, old]
    start_s = time.monotonic()
    workstation.deploy(bundles[0], hosts=[deployed]).succeeded()
    whole_s = time.monotonic() - start_s
    moments = random.Random(points)
    for point in range(points):
        running, wanted = bundles[point % 2], bundles[(point + 1) % 2]
        process = workstation.start(*workstation.deploy_words(wanted, "--allow-downgrade"), hosts=[deployed])
        time.sleep(moments.uniform(0.05, 1.0) * whole_s)
        process.kill()
        process.communicate()
        require_runs_either(deployed, running, wanted, xray)
        workstation.deploy(wanted, "--allow-downgrade", hosts=[deployed]).succeeded()
        require_runs(deployed, wanted, xray)
