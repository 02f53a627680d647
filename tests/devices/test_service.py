"""The agent as a hardened service, on real systemds: it works there, and comes back whatever happens to it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emulated.agent import PLACE, SERVICE, DeviceAgent, until
from emulated.host import Host
from emulated.rootfs import DEBIAN_12, DEBIAN_13, Release

from firmware_bridge.bundle import open_bundle

MakeAgent = Callable[..., DeviceAgent]
EXPOSURE_AT_MOST = 2.0
RELEASES = pytest.mark.parametrize("release", [DEBIAN_12, DEBIAN_13], ids=lambda release: release.suite)


def expected(bundle: Path, xray: Path) -> float:
    with open_bundle(bundle) as opened:
        return opened.scorer(threads=1).score(xray.read_bytes()).probability


def exposure(host: Host) -> tuple[float, str]:
    """systemd's own opinion of how much of the system the service can touch: 0 (nothing) to 10, and its table."""
    table = host.inside("systemd-analyze", "security", "--no-pager", SERVICE, check=False).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", table)
    assert found, table
    return float(found.group(1)), "\n".join(line for line in table.splitlines() if line.startswith("✗"))


@RELEASES
def test_it_scores_an_xray_from_inside_its_sandbox(
    make_agent: MakeAgent, release: Release, bundle_file: Path, xray: Path
) -> None:
    agent = make_agent(release)
    agent.start()
    record = agent.score(xray)
    assert record["probability"] == pytest.approx(expected(bundle_file, xray), abs=0.02)
    assert record["model"]["delegate"] == "XNNPACK"
    rating, open_points = exposure(agent.host)
    assert rating <= EXPOSURE_AT_MOST, open_points
    # What systemd did not understand of the unit would only be a line in its log.
    said = agent.host.inside("systemd-analyze", "verify", f"/etc/systemd/system/{SERVICE}", check=False)
    assert (said.returncode, said.stderr) == (0, "")


@RELEASES
def test_a_hung_agent_is_started_again_and_goes_on(make_agent: MakeAgent, release: Release, xray: Path) -> None:
    agent = make_agent(release, watchdog_s=4)
    agent.start()
    agent.score(xray)
    hung = agent.pid
    agent.signal("STOP")
    beside = agent.drop(xray)
    until(lambda: agent.pid not in (0, hung), what=f"a new process; log:\n{agent.log()}")
    until(beside.exists, what=f"the X-ray that came while it hung; log:\n{agent.log()}")
    assert "Watchdog timeout" in agent.log()


def test_an_agent_that_the_watchdog_ends_says_where_it_stood(make_agent: MakeAgent) -> None:
    agent = make_agent()
    agent.start()
    agent.signal("ABRT")  # what the watchdog sends first
    until(lambda: "Fatal Python error: Aborted" in agent.log(), what=f"the place of every thread; log:\n{agent.log()}")
    assert "threading.py" in agent.log()


def test_a_healthy_agent_is_left_alone_by_the_watchdog(make_agent: MakeAgent, xray: Path) -> None:
    agent = make_agent(watchdog_s=3)
    agent.start()
    started = agent.pid
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        agent.score(xray)
    assert (agent.pid, agent.host.show(SERVICE, "NRestarts")) == (started, "0")


def test_a_killed_agent_is_started_again_and_loses_nothing(make_agent: MakeAgent, xray: Path, tmp_path: Path) -> None:
    agent = make_agent()
    agent.start()
    records = [agent.drop(xray) for _ in range(5)]
    killed = agent.pid
    agent.signal("KILL")
    records += [agent.drop(xray) for _ in range(5)]
    for record in records:
        until(record.exists, what=f"{record.name}; log:\n{agent.log()}")
    assert agent.pid not in (0, killed)
    agent.host.systemctl("stop", SERVICE)
    assert len({json.loads(record.read_bytes())["id"] for record in records}) == 10
    assert agent.journal("SELECT count(*) FROM result", tmp_path) == [(10,)]


def test_it_starts_with_the_machine_also_after_a_power_cut(make_agent: MakeAgent, xray: Path) -> None:
    agent = make_agent()
    agent.host.systemctl("enable", SERVICE)
    agent.start()
    agent.score(xray)
    agent.host.power_off()
    waiting = agent.drop(xray)
    agent.host.boot()
    until(waiting.exists, what="the X-ray that came while the device was off")


def test_a_stop_is_clean_and_soon(make_agent: MakeAgent, xray: Path) -> None:
    agent = make_agent()
    agent.host.put(f"/etc/systemd/system/{SERVICE}.d/stop.conf", b"[Service]\nTimeoutStopSec=5\n")
    agent.host.systemctl("daemon-reload")
    agent.start()
    records = [agent.drop(xray) for _ in range(30)]
    until(lambda: any(record.exists() for record in records), what="the first record")
    agent.host.systemctl("stop", SERVICE)
    assert agent.host.show(SERVICE, "Result") == "success"  # it would be "timeout"
    assert not list(agent.watch.glob("*.tmp")) + list(agent.watch.glob(".*.json*"))


def test_nobody_but_the_agent_can_read_what_it_keeps(make_agent: MakeAgent, xray: Path) -> None:
    agent = make_agent(secrets=["mqtt-password"])
    agent.host.put("/etc/cxr-edge/secrets/mqtt-password", b"hush", mode=0o600)
    agent.start()
    agent.score(xray)
    assert agent.host.ssh("ls /var/lib/cxr-edge", check=False).returncode != 0
    assert agent.host.ssh("cat /etc/cxr-edge/secrets/mqtt-password", check=False).returncode != 0
    seen = agent.host.inside("nsenter", "-t", str(agent.pid), "-m", "cat", f"/run/credentials/{SERVICE}/mqtt-password")
    assert seen.stdout == "hush"
    everything = agent.host.inside("systemctl", "show", SERVICE).stdout + agent.log()
    assert "hush" not in everything + agent.host.inside("cat", f"/proc/{agent.pid}/cmdline").stdout


@RELEASES
def test_a_reload_takes_new_settings_without_a_restart(make_agent: MakeAgent, release: Release, xray: Path) -> None:
    agent = make_agent(release)
    file = agent.host.root / PLACE.lstrip("/") / "agent.toml"
    sound = file.read_text()
    agent.start()
    started = agent.pid
    file.write_text(f'{sound}\n[log]\nlevel = "debug"\n[retention]\nresults_days = 30\n')
    agent.host.systemctl("reload", SERVICE)
    until(lambda: "reload: changed: [log], [retention]" in agent.log(), what=f"the new settings; log:\n{agent.log()}")
    assert agent.score(xray)["decision"] in ("positive", "negative")
    file.write_text(f"{sound}\n[log]\nlevle = 1\n")
    agent.host.systemctl("reload", SERVICE)
    until(lambda: "reload: the old settings stay" in agent.log(), what=f"a word about the slip; log:\n{agent.log()}")
    assert agent.score(xray)["decision"] in ("positive", "negative")
    assert (agent.pid, agent.host.show(SERVICE, "NRestarts")) == (started, "0")
    # With 253 and later systemd waits for the agent's word that it is done: that word came.
    assert agent.host.show(SERVICE, "ActiveState") == "active"


def inside_sandbox(agent: DeviceAgent, command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell line as the service's user in its mount namespace."""
    enter = ["nsenter", "-t", str(agent.pid), "-m", "setpriv", "--reuid", "cxr-edge", "--regid", "cxr-edge"]
    return agent.host.inside(*enter, "--clear-groups", "--no-new-privs", "sh", "-c", command, check=False)


def test_it_sees_and_writes_only_what_it_needs(make_agent: MakeAgent, xray: Path) -> None:
    agent = make_agent()
    agent.host.put("/home/edge/private", b"private")
    agent.start()
    agent.score(xray)
    assert inside_sandbox(agent, "cat /home/edge/private").returncode != 0
    assert "Read-only" in inside_sandbox(agent, "echo x > /opt/cxr-edge/current/app/x").stderr
    assert "Read-only" in inside_sandbox(agent, "echo x > /etc/x").stderr
    assert inside_sandbox(agent, "ls /dev/sda /dev/mem /dev/kmsg").stdout == ""
    assert inside_sandbox(agent, "echo x > /srv/xrays/x && echo x > /var/lib/cxr-edge/x").returncode == 0
    status = agent.host.inside("cat", f"/proc/{agent.pid}/status").stdout
    assert re.search(r"CapBnd:\s+0+\n", status)
    assert re.search(r"NoNewPrivs:\s+1\n", status)
    assert re.search(r"Seccomp:\s+2\n", status)


@pytest.mark.parametrize("watch", ["/home/edge/Shared X-rays", "/var/tmp/x-rays", "/srv/50% dose"])
def test_the_watched_folder_may_lie_anywhere(make_agent: MakeAgent, xray: Path, watch: str) -> None:
    agent = make_agent(watch=watch)
    agent.host.put("/home/edge/private", b"private")
    agent.host.inside("chmod", "700", "/home/edge")
    agent.start()
    assert agent.score(xray)["decision"] in ("positive", "negative")
    assert inside_sandbox(agent, "cat /home/edge/private").returncode != 0


def test_limits_are_set(make_agent: MakeAgent) -> None:
    agent = make_agent(memory_max_mb=300, tasks_max=40, only_addresses=["192.0.2.7", "localhost"])
    agent.start()
    shown: dict[str, Any] = dict(
        line.split("=", 1) for line in agent.host.systemctl("show", SERVICE).splitlines() if "=" in line
    )
    assert (shown["MemoryMax"], shown["TasksMax"]) == (str(300 * 2**20), "40")
    assert set(shown["IPAddressDeny"].split()) == {"::/0", "0.0.0.0/0"}
    assert set(shown["IPAddressAllow"].split()) == {"192.0.2.7/32", "127.0.0.0/8", "::1/128"}
    assert shown["WatchdogUSec"] == "30s"


@RELEASES
def test_with_an_accelerator_it_may_open_what_the_groups_of_gpus_may(
    make_agent: MakeAgent, release: Release, xray: Path
) -> None:
    agent = make_agent(release, accelerator=True)
    code = (
        "from pathlib import Path; from firmware_bridge.deploy.install import make_groups; "
        f"print(make_groups(Path('/etc/systemd/system/{SERVICE}').read_text()))"
    )
    for made in (["render"], []):  # Debian without udev lacks one of the two
        said = agent.host.inside("env", f"PYTHONPATH={PLACE}/app", "python3", "-c", code)
        assert said.stdout.strip() == str(made)
    agent.start()
    assert agent.score(xray)["decision"] in ("positive", "negative")
    groups = agent.host.inside("getent", "group", "video", "render").stdout.splitlines()
    wanted = {line.split(":")[2] for line in groups}
    found = re.search(r"^Groups:\s*(.*)$", agent.host.inside("cat", f"/proc/{agent.pid}/status").stdout, re.MULTILINE)
    assert found
    assert len(wanted) == 2
    assert wanted <= set(found.group(1).split())
    assert agent.host.show(SERVICE, "PrivateDevices") == "no"
    rating, open_points = exposure(agent.host)
    assert rating <= EXPOSURE_AT_MOST + 0.5, open_points  # what the device nodes cost
