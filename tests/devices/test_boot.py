"""A whole emulated 64-bit ARM with a kernel of its own: what only a real boot shows. `make test-devices-boot`."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulated import needs
from emulated.machine import ECHO, Machine
from emulated.workstation import WATCH, Workstation

from firmware_bridge.bundle import open_bundle
from firmware_bridge.shipped import shipped_bundle

pytestmark = [pytest.mark.devices_boot, pytest.mark.devices_all]
INVENTORY = """
[hosts.pi]
address = "{address}"
port = {port}
user = "{user}"
key = "{key}"
"""
LIMIT_S = 1800.0  # every instruction of it is emulated


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """An emulated machine that answers."""
    if needs.missing_for_boot():
        pytest.skip(needs.missing_for_boot())
    machine = Machine(tmp_path / "machine", name="pi")
    try:
        sys.stderr.write(f"\nboot to sshd: {machine.wait():.0f} s; load {load()}\n")
        yield machine
    finally:
        machine.close()


def load() -> str:
    return Path("/proc/loadavg").read_text().split()[0]


def test_the_shipped_bundle_on_a_machine_with_a_kernel_of_its_own(
    machine: Machine, workstation: Workstation, xray: Path, tmp_path: Path
) -> None:
    bundle = workstation.signed(Path(shutil.copy(shipped_bundle(), tmp_path)))
    inventory = tmp_path / "inventory.toml"
    inventory.write_text(
        INVENTORY.format(address=machine.address, port=machine.port, user=machine.user, key=machine.key)
    )
    start_s = time.monotonic()
    options = {"hosts": [machine], "inventory": inventory, "limit_s": LIMIT_S}
    done = workstation.deploy(bundle, "--target", "linux-aarch64", **options).succeeded()
    sys.stderr.write(f"first deployment: {time.monotonic() - start_s:.0f} s; load {load()}\n")
    assert done.states == ["running"]
    record = score(machine, xray)
    sys.stderr.write(f"one X-ray: {record['timings_ms']} ms\n")
    with open_bundle(bundle) as opened:
        here = opened.scorer(record["model"]["precision"], threads=1).score(xray.read_bytes())
    assert record["probability"] == pytest.approx(here.probability, abs=0.02)
    # The kernel here has the control groups that a container lacks.
    shown = machine.ssh("systemctl show cxr-edge -p MemoryCurrent --value").stdout
    assert 0 < int(shown) < 700 * 2**20

    start_s = time.monotonic()
    again = workstation.deploy(bundle, "--target", "linux-aarch64", **options)
    sys.stderr.write(f"nothing changed: {time.monotonic() - start_s:.0f} s; load {load()}\n")
    assert again.succeeded().states == ["nothing changed"]

    assert reaches(machine)
    with inventory.open("a") as file:
        file.write('only_addresses = ["192.0.2.7"]\n')
    closed = workstation.deploy(bundle, "--target", "linux-aarch64", **options)
    assert closed.succeeded().states == ["running"]
    assert not reaches(machine), "the kernel lets the service speak with an address that it was denied"


def reaches(machine: Machine) -> bool:
    """Whether a process in the service's control group there reaches the echo."""
    script = f"""
    group=/sys/fs/cgroup$(systemctl show cxr-edge -p ControlGroup --value)
    echo $$ > $group/cgroup.procs || exit 3
    exec python3 -c 'import socket; socket.create_connection(("{ECHO[0]}", {ECHO[1]}), timeout=60)'
    """
    done = machine.ssh("sudo sh -s", check=False, stdin=script.encode())
    sys.stderr.write(done.stderr.decode()[-200:])
    assert done.returncode in (0, 1)
    return done.returncode == 0


def score(machine: Machine, image: Path) -> dict[str, object]:
    """The record of an X-ray that was put into the watched folder there."""
    there, beside = f"{WATCH}/xray.jpg", f"{WATCH}/xray.jpg.cxr.json"
    machine.ssh(
        f"sudo install -m 664 -g cxr-edge /dev/stdin {WATCH}/.part && sudo mv {WATCH}/.part {there}",
        stdin=image.read_bytes(),
    )
    machine.ssh(f"for n in $(seq 240); do sudo test -e {beside} && exit 0; sleep 0.5; done; exit 1")
    found: dict[str, object] = json.loads(machine.ssh(f"sudo cat {beside}").stdout)
    return found
