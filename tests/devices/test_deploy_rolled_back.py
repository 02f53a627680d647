"""New releases that do not prove themselves: the device goes back by itself, and says why."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from emulated.agent import until
from emulated.host import Host
from emulated.workstation import REPOSITORY, Workstation, fingerprint, require_runs

from firmware_bridge.deploy.layout import SERVICE

MakeHost = Callable[..., Host]
ROOMS = "firmware_bridge", "calibration", "toolkit"
# What a faulty version of the agent does once it has said that it is ready.
DIES = "threading.Timer(1.0, os._exit, [3]).start()"
HANGS = "os.kill(os.getpid(), signal.SIGSTOP)"
# It scores the first X-ray, and hangs then: only the watchdog can tell.
HANGS_LATER = "threading.Timer(8.0, os.kill, [os.getpid(), signal.SIGSTOP]).start()"
SABOTAGE = """

import signal
import threading

_sound = notify


def notify(state: str) -> None:
    _sound(state)
    if state.startswith("READY=1"):
        {fault}
"""


@pytest.fixture
def faulty(workstation: Workstation, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Makes the workstation deploy a version of cxr-edge with a fault."""

    def sabotage(fault: str) -> None:
        code = tmp_path / "code"
        for room in ROOMS:
            shutil.copytree(REPOSITORY / room, code / room, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(REPOSITORY / name, code)
        with (code / "firmware_bridge" / "notify.py").open("a") as file:
            file.write(SABOTAGE.format(fault=fault))
        workstation.code = code

    yield sabotage
    workstation.code = REPOSITORY


@pytest.mark.parametrize(
    ("fault", "watch_s", "words"),
    [
        pytest.param(DIES, 5, "", id="dies"),
        pytest.param(HANGS, 5, "the agent hangs", id="hangs", marks=pytest.mark.devices_all),
        pytest.param(HANGS_LATER, 60, "the watchdog ended it", id="hangs-later", marks=pytest.mark.devices_all),
    ],
)
def test_an_agent_that_starts_and_then_fails(
    faulty: Callable[[str], None],
    deployed: Host,
    workstation: Workstation,
    old: Path,
    new: Path,
    xray: Path,
    fault: str,
    watch_s: int,
    words: str,
) -> None:
    faulty(fault)
    failed = workstation.deploy(new, "--watch", str(watch_s), hosts=[deployed])
    failed.failed("RolledBack", "runs again", "cxr-edge logs", words)
    require_runs(deployed, old, xray)
    workstation.code = REPOSITORY
    workstation.deploy(new, hosts=[deployed]).succeeded()
    require_runs(deployed, new, xray)


def test_a_first_deployment_that_fails_leaves_nothing_running(
    faulty: Callable[[str], None], make_host: MakeHost, workstation: Workstation, old: Path, xray: Path
) -> None:
    host = make_host()
    faulty(DIES)
    workstation.deploy(old, "--watch", "5", hosts=[host]).failed("RolledBack", "nothing runs, as before")
    assert host.show(SERVICE, "ActiveState") in ("inactive", "failed")
    assert not (host.root / "opt/cxr-edge/current").is_symlink()
    workstation.code = REPOSITORY
    workstation.deploy(old, hosts=[host]).succeeded()
    require_runs(host, old, xray)


def test_a_bundle_that_gives_other_results_there(
    deployed: Host, workstation: Workstation, old: Path, xray: Path
) -> None:
    wrong = workstation.bundle("wrong", created="2026-05-01T00:00:00Z", golden_off=0.2)
    workstation.deploy(wrong, hosts=[deployed]).failed("BundleError", "does not give its own results", "do not use it")
    require_runs(deployed, old, xray)


def test_a_broker_that_is_down(
    deployed: Host, workstation: Workstation, old: Path, new: Path, xray: Path, tmp_path: Path
) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'[mqtt]\nurl = "mqtt://{deployed.cable.here}:1"\n')
    planned = workstation.deploy(new, "--config", str(config), "--dry-run", hosts=[deployed])
    assert "[mqtt] url default → " in "\n".join(planned.hosts[0]["told"])
    failed = workstation.deploy(new, "--config", str(config), hosts=[deployed])
    failed.failed("RolledBack", f"broker {deployed.cable.here}:1", "reachable from the device")
    require_runs(deployed, old, xray)


def test_a_broker_that_refuses_the_login(
    deployed: Host, workstation: Workstation, old: Path, new: Path, xray: Path, tmp_path: Path
) -> None:
    program = shutil.which("mosquitto", path="/usr/bin:/usr/sbin:/usr/local/sbin")
    if not program:
        pytest.skip("needs the MQTT broker Mosquitto: apt-get install mosquitto")
    config, setup, port = tmp_path / "agent.toml", tmp_path / "mosquitto.conf", 18830
    config.write_text(f'[mqtt]\nurl = "mqtt://{deployed.cable.here}:{port}"\n')
    for anonymous in ("false", "true"):
        setup.write_text(f"listener {port} {deployed.cable.here}\nallow_anonymous {anonymous}\nuser root\n")
        with subprocess.Popen([program, "-c", str(setup)], stderr=subprocess.DEVNULL) as broker:
            try:
                done = workstation.deploy(new, "--config", str(config), hosts=[deployed])
            finally:
                broker.terminate()
        if anonymous == "false":
            done.failed("RolledBack", "to take the agent's login", "runs again")
            require_runs(deployed, old, xray)
    done.succeeded()
    require_runs(deployed, new, xray)


def test_one_of_three_fails_and_the_others_do_not_care(
    make_deployed: MakeHost, workstation: Workstation, old: Path, new: Path, xray: Path
) -> None:
    hosts = [make_deployed(name=name) for name in ("ward-1", "ward-2", "ward-3")]
    hosts[1].set_sudo("none")
    before = fingerprint(hosts[1])
    done = workstation.deploy(new, hosts=hosts, environment={"CXR_EDGE_SUDO_PASSWORD": hosts[1].password})
    assert (done.code, done.states) == (10, ["running", "failed", "running"])
    assert done.hosts[1]["error"]["kind"] == "HostError"
    assert "ward-2: no way to become root" in done.err
    assert fingerprint(hosts[1]) == before
    for host, bundle in zip(hosts, (new, old, new), strict=True):
        require_runs(host, bundle, xray)
    hosts[1].set_sudo("nopasswd")
    again = workstation.deploy(new, hosts=hosts).succeeded()
    assert again.states == ["nothing changed", "running", "nothing changed"]


def test_a_canary_that_fails_keeps_the_others_as_they_are(
    faulty: Callable[[str], None],
    make_deployed: MakeHost,
    workstation: Workstation,
    old: Path,
    new: Path,
    xray: Path,
) -> None:
    hosts = [make_deployed(name=name) for name in ("ward-1", "ward-2")]
    faulty(DIES)
    done = workstation.deploy(new, "--canary", "--watch", "5", hosts=hosts)
    assert (done.code, done.states) == (10, ["failed", "not begun"])
    for host in hosts:
        require_runs(host, old, xray)


def test_status_rollback_logs_and_uninstall(
    deployed: Host, workstation: Workstation, old: Path, new: Path, xray: Path
) -> None:
    workstation.deploy(new, hosts=[deployed]).succeeded()
    require_runs(deployed, new, xray)
    status = workstation.run("status", "--json", hosts=[deployed])
    assert status.returncode == 0, status.stderr
    (told,) = json.loads(status.stdout)["hosts"]
    before, current = told["releases"]
    assert current["put_together"] <= current["active_since"]
    assert "put together" in workstation.run("status", hosts=[deployed]).stdout
    unknown = workstation.run("rollback", "--to", "x", hosts=[deployed])
    assert unknown.returncode == 10
    assert f"{before['id']} (tiny of 2026-02-01T00:00:00Z)" in unknown.stderr
    rolled = workstation.run("rollback", "--watch", "1", hosts=[deployed])
    assert rolled.returncode == 0, rolled.stderr
    require_runs(deployed, old, xray)
    logs = workstation.run("logs", hosts=[deployed])
    assert "watching" in logs.stdout, logs
    removed = workstation.run("uninstall", "--yes", hosts=[deployed])
    assert removed.returncode == 0, removed.stderr
    assert not (deployed.root / "opt/cxr-edge").exists()
    assert (deployed.root / "var/lib/cxr-edge/journal.sqlite").exists()
    assert deployed.show(SERVICE, "ActiveState") == "inactive"


def test_secrets_go_back_with_their_release_and_a_strict_umask_locks_nobody_out(
    deployed: Host, workstation: Workstation, old: Path, new: Path, xray: Path, tmp_path: Path
) -> None:
    config, secret = tmp_path / "agent.toml", deployed.root / "etc/cxr-edge/secrets/mqtt-password"
    config.write_text('[mqtt]\nurl = "mqtt://192.0.2.1"\n')
    options = {}
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
        options[name] = ["--config", str(config), "--mqtt-password-file", str(tmp_path / name), "--no-broker-check"]
    workstation.deploy(old, *options["first"], hosts=[deployed]).succeeded()
    assert secret.read_text() == "first"
    (deployed.root / "etc/sudoers.d/umask").write_text("Defaults umask=0077, umask_override\n")
    wrong = workstation.bundle("wrong-again", created="2026-05-01T00:00:00Z", golden_off=0.2)
    workstation.deploy(wrong, *options["second"], hosts=[deployed]).failed("BundleError")
    assert secret.read_text() == "first"
    workstation.deploy(new, *options["second"], hosts=[deployed]).succeeded()
    assert secret.read_text() == "second"
    deployed.reboot()
    until(lambda: deployed.show(SERVICE, "ActiveState") == "active", what="the service to start with the machine")
    require_runs(deployed, new, xray)
    rolled = workstation.run("rollback", "--watch", "1", hosts=[deployed])
    assert rolled.returncode == 0, rolled.stderr
    require_runs(deployed, old, xray)
    assert secret.read_text() == "first"
