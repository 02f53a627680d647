"""The emulated devices themselves: what a test of a deployment rests on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from emulated import needs
from emulated.host import Host
from emulated.namespace import children
from emulated.rootfs import DEBIAN_12, DEBIAN_13, Release

MakeHost = Callable[..., Host]
# Starts a device and says which processes and which link it consists of; then waits to be killed.
ABANDON = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from emulated.host import Host
from emulated.rootfs import DEBIAN_12
host = Host(DEBIAN_12, Path(sys.argv[2]), name="edge1")
host.wait()
print(json.dumps({"pids": [host.pid, host._room.pid], "link": host.cable.name}), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("release", [DEBIAN_12, DEBIAN_13], ids=lambda release: release.suite)
def test_systemd_runs_and_sshd_lets_the_user_in(make_host: MakeHost, release: Release) -> None:
    host = make_host(release)
    assert host.ssh("cat /proc/1/comm; id -un; python3 -V").stdout.split() == [
        *("systemd", "edge", "Python"),
        host.ssh("python3 -V").stdout.split()[1],
    ]
    assert host.ssh("python3 -V").stdout.startswith(f"Python {release.python}.")
    assert f"VERSION_CODENAME={release.suite}" in host.ssh("cat /etc/os-release").stdout
    # Everything that a test looks at has settled: no unit failed.
    assert host.ssh("systemctl is-system-running --wait").stdout.strip() == "running"


def test_every_host_starts_with_a_clean_disk_of_its_own(make_host: MakeHost) -> None:
    hosts = [make_host(wait=False) for _ in range(3)]
    for host in hosts:
        host.wait()
    hosts[0].ssh("echo mine > /home/edge/mine")
    assert [host.ssh("ls /home/edge").stdout.split() for host in hosts] == [["mine"], [], []]
    assert (hosts[0].root / "home/edge/mine").read_text() == "mine\n"
    assert [host.ssh("hostname").stdout.strip() for host in hosts] == ["edge1", "edge2", "edge3"]
    assert len({host.ssh("cat /etc/machine-id").stdout for host in hosts}) == 3
    assert len({host.known_hosts.read_text().split()[2] for host in hosts}) == 3


def test_a_cut_cable_stops_everything_until_it_is_mended(host: Host) -> None:
    host.cable.cut()
    with pytest.raises(subprocess.TimeoutExpired):
        host.ssh("true", timeout_s=1)
    assert host.inside("cat", "/proc/1/comm").stdout == "systemd\n"
    host.cable.mend()
    assert host.ssh("echo back").stdout == "back\n"


def test_a_slow_cable_is_slow(host: Host) -> None:
    host.cable.throttle(mbit_per_s=8)
    start_s = time.monotonic()
    host.ssh("cat > /dev/null", stdin="x" * 2_000_000)
    assert time.monotonic() - start_s > 1.5  # 2 MB at 1 MB/s: a floor, whatever else the machine does
    host.cable.unthrottle()


def test_what_was_written_is_there_after_a_reboot_and_after_a_power_cut(host: Host) -> None:
    boots = {host.ssh("echo kept > ~/kept; stat -c %Y /proc/1/ns").stdout}
    host.reboot()
    boots.add(host.ssh("cat ~/kept; stat -c %Y /proc/1/ns").stdout)
    host.power_off()
    assert (host.root / "home/edge/kept").read_text() == "kept\n"
    host.boot()
    assert host.ssh("cat ~/kept").stdout == "kept\n"


def test_the_disk_can_be_full(make_host: MakeHost) -> None:
    host = make_host(disk="64m")
    filler = host.fill_disk(leave_bytes=200_000)
    full = host.ssh("head -c 1000000 /dev/zero > big", check=False)
    assert "No space left on device" in full.stderr
    filler.unlink()
    host.ssh("head -c 1000000 /dev/zero > big")


def test_the_clock_can_be_wrong(host: Host) -> None:
    host.skew_clock("-400d")
    now_s = time.time()
    for command in ("date +%s", "python3 -c 'import time; print(time.time())'"):
        assert now_s - float(host.ssh(command).stdout) == pytest.approx(400 * 86400, abs=60)


@pytest.mark.parametrize(("how", "without", "with_password"), [("nopasswd", 0, 0), ("password", 1, 0), ("none", 1, 1)])
def test_sudo_is_there_or_asks_or_is_not(make_host: MakeHost, how: str, without: int, with_password: int) -> None:
    host = make_host(sudo=how)
    assert host.ssh("sudo -n true", check=False).returncode == without
    asked = host.ssh("sudo -S -p '' id -u", check=False, stdin=host.password + "\n")
    assert (asked.returncode, asked.stdout) == ((0, "0\n") if with_password == 0 else (1, ""))


def test_ssh_refuses_a_host_whose_key_changed(host: Host) -> None:
    known = host.known_hosts.read_text()
    host.new_host_key()
    host.systemctl("restart", "ssh")
    assert host.ssh("echo new").stdout == "new\n"
    host.known_hosts.write_text(known)
    assert "HOST IDENTIFICATION HAS CHANGED" in host.ssh("true", check=False).stderr


def test_nothing_is_left_when_the_tests_themselves_are_killed(tmp_path: Path) -> None:
    if needs.missing():
        pytest.skip(needs.missing())
    script = [sys.executable, "-c", ABANDON, str(Path(__file__).parent), str(tmp_path / "host")]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as abandoned:
        assert abandoned.stdout is not None
        said = json.loads(abandoned.stdout.readline())
        assert all(Path(f"/proc/{pid}").exists() for pid in said["pids"])
        abandoned.kill()
    deadline_s = time.monotonic() + 30
    while alive := [pid for pid in said["pids"] if _runs(pid)]:
        assert time.monotonic() < deadline_s, f"still there: {alive}"
        time.sleep(0.05)
    while Path(f"/sys/class/net/{said['link']}").exists():
        assert time.monotonic() < deadline_s, f"still there: {said['link']}"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_nothing_is_left_when_a_host_is_closed(tmp_path: Path) -> None:
    if needs.missing():
        pytest.skip(needs.missing())
    host = Host(DEBIAN_12, tmp_path / "host", name="edge1")
    host.wait()
    pids, link, group = [host.pid, host._room.pid], host.cable.name, host._room.cgroup.name
    host.close()
    assert [pid for pid in pids if _runs(pid)] == []
    assert not Path(f"/sys/class/net/{link}").exists()
    assert list(Path("/sys/fs/cgroup").rglob(group)) == []
    assert children(pids[1]) == []
    assert "cxr-edge" not in Path("/proc/self/mounts").read_text()
