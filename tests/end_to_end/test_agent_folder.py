"""The agent and its folder: finished files only, each once, a reason for every refusal."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from firmware_bridge.result import NOTICE

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Agent, Xrays

WAIT_S = 20.0


def wait_for_json(agent: Agent, name: str) -> dict[str, object]:
    deadline_s = time.monotonic() + WAIT_S
    while (record := agent.json(name)) is None:
        assert time.monotonic() < deadline_s, f"no JSON beside {name!r}"
        assert agent.running
        time.sleep(0.02)
    return dict(record)


def test_files_that_were_there_are_scored_once(agent: Agent, xrays: Xrays) -> None:
    ids = {f"{number}.jpg": xrays.put(agent.watch / f"{number}.jpg", old=True) for number in range(5)}
    (agent.watch / "sub").mkdir()
    below = xrays.put(agent.watch / "sub" / "6.jpg", old=True)
    assert agent.run() == 0
    for name, id in ids.items():
        record = agent.json(name)
        assert record["id"] == id
        assert record["notice"] == NOTICE
        assert 0 <= record["probability"] <= 1
        assert record["decision"] in ("positive", "negative")
        assert record["model"]["delegate"] == "XNNPACK"
    assert agent.json("sub/6.jpg")["id"] == below
    before = {path: path.stat().st_mtime_ns for path in agent.watch.rglob("*")}
    assert agent.run() == 0
    assert "0 scored (0 positive), 0 refused" in agent.log.read_text().splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in agent.watch.rglob("*")} == before


def test_the_same_picture_under_another_name_is_recognised(agent: Agent, xrays: Xrays) -> None:
    id = xrays.put(agent.watch / "a.jpg", old=True)
    shutil.copy2(agent.watch / "a.jpg", agent.watch / "b.jpg")
    assert agent.run() == 0
    shutil.copy2(agent.watch / "a.jpg", agent.watch / "c.jpg")
    assert agent.run() == 0
    assert agent.json("a.jpg") == agent.json("b.jpg") == agent.json("c.jpg")
    assert agent.journal("SELECT id FROM result") == [(id,)]


@pytest.mark.parametrize("options", [[], ["--poll", "0.2"]], ids=["inotify", "poll"])
def test_a_half_written_file_waits(agent: Agent, xrays: Xrays, options: list[str]) -> None:
    agent.start("--settle", "0.4", "--grace", "3", *options)
    wait_until_watching(agent)
    data = xrays.make()
    with (agent.watch / "slow.jpg").open("wb") as file:
        for part in range(4):
            file.write(data[len(data) * part // 4 : len(data) * (part + 1) // 4])
            file.flush()
            time.sleep(0.6)  # longer than --settle: its size keeps still, but it does not decode
            if part < 3:
                assert agent.json("slow.jpg") is None
    assert wait_for_json(agent, "slow.jpg")["id"] == xrays.id_of(data)
    assert agent.journal("SELECT count(*) FROM result WHERE record LIKE '%\"refused\"%'") == [(0,)]


@pytest.mark.parametrize(
    ("parts", "pause_s", "grace_s"),
    [pytest.param(4, 0.5, 2.0, id="seconds"), pytest.param(25, 8.0, 10.0, id="minutes", marks=pytest.mark.soak)],
)
@pytest.mark.parametrize("options", [[], ["--poll", "0.2"]], ids=["inotify", "poll"])
def test_a_file_that_is_appended_to_by_its_name_waits(
    agent: Agent, xrays: Xrays, options: list[str], parts: int, pause_s: float, grace_s: float
) -> None:
    """Its writer opens and closes it for each piece, so that it looks finished again and again."""
    agent.start("--settle", "0.1", "--grace", str(grace_s), *options)
    wait_until_watching(agent)
    data = xrays.make()
    for part in range(parts):
        with (agent.watch / "slow.jpg").open("ab") as file:
            file.write(data[len(data) * part // parts : len(data) * (part + 1) // parts])
        if part < parts - 1:
            time.sleep(pause_s)
            assert agent.json("slow.jpg") is None
    assert wait_for_json(agent, "slow.jpg")["id"] == xrays.id_of(data)
    assert agent.journal("SELECT count(*) FROM result") == [(1,)]
    assert agent.terminate() == 0
    assert [path.name for path in agent.watch.rglob("*.jpg")] == ["slow.jpg"]


def wait_until_watching(agent: Agent) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while "INFO watching" not in agent.log.read_text():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_files_written_moved_in_and_replaced(agent: Agent, xrays: Xrays, tmp_path: Path) -> None:
    agent.start("--settle", "3600")  # the kernel tells; nothing may have to settle
    wait_until_watching(agent)
    outside = tmp_path / "outside.jpg"
    id = xrays.put(outside)
    outside.rename(agent.watch / "moved.jpg")
    assert wait_for_json(agent, "moved.jpg")["id"] == id
    data = xrays.make()
    (agent.watch / "written.jpg").write_bytes(data)
    assert wait_for_json(agent, "written.jpg")["id"] == xrays.id_of(data)
    again = xrays.put(agent.watch / "moved.jpg")
    deadline_s = time.monotonic() + WAIT_S
    while agent.json("moved.jpg")["id"] != again:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_new_folder_with_files_is_seen(agent: Agent, xrays: Xrays, tmp_path: Path) -> None:
    agent.start("--settle", "0.2")
    wait_until_watching(agent)
    (tmp_path / "study").mkdir()
    id = xrays.put(tmp_path / "study" / "1.jpg")
    (tmp_path / "study").rename(agent.watch / "study")
    assert wait_for_json(agent, "study/1.jpg")["id"] == id


def test_bad_files_are_refused_and_the_agent_goes_on(agent: Agent, xrays: Xrays) -> None:
    bad = {
        "empty.jpg": b"",
        "text.txt": b"not an image",
        "truncated.jpg": xrays.make()[:3000],
        "zeros.png": bytes(100_000),
        "bomb.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x75\x30\0\0\x75\x30\x08\0\0\0\0",
    }
    for name, data in bad.items():
        (agent.watch / name).write_bytes(data)
    agent.start("--settle", "0.1", "--grace", "0.5")
    for name in bad:
        refused = wait_for_json(agent, name)["refused"]
        assert isinstance(refused, dict)
        assert set(refused) == {"what", "expected", "came", "do"}
    xrays.put(agent.watch / "good.jpg")
    assert "probability" in wait_for_json(agent, "good.jpg")
    assert agent.terminate() == 0


@pytest.mark.parametrize(
    "name",
    [b"with space.jpg", b"two\nlines.jpg", "Röntgen 胸.jpg".encode(), b"not-utf8-\xff\xfe.jpg", b"x" * 251 + b".jpg"],
)
def test_odd_names(agent: Agent, xrays: Xrays, name: bytes) -> None:
    id = xrays.put(agent.watch / "plain.jpg", old=True)
    os.rename(os.fsencode(agent.watch / "plain.jpg"), os.fsencode(agent.watch) + b"/" + name)  # noqa: PTH104
    assert agent.run("--names") == 0
    (record,) = agent.journal("SELECT id FROM result")
    assert record == (id,)
    assert len(list(agent.watch.glob("*.cxr.json"))) == 1


def test_what_is_no_file_of_ours_is_left_alone(agent: Agent, xrays: Xrays, tmp_path: Path) -> None:
    os.mkfifo(agent.watch / "pipe.jpg")
    xrays.put(tmp_path / "secret.jpg", old=True)
    (agent.watch / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (agent.watch / "folder-link").symlink_to(tmp_path)
    for name in (".hidden.jpg", "upload.jpg.part", "old.jpg.cxr.json"):
        xrays.put(agent.watch / name, old=True)
    before = sorted(agent.watch.iterdir())
    assert agent.run() == 0
    assert sorted(agent.watch.iterdir()) == before


def test_a_link_in_place_of_the_json_is_not_followed(agent: Agent, xrays: Xrays, tmp_path: Path) -> None:
    xrays.put(agent.watch / "a.jpg", old=True)
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (agent.watch / "a.jpg.cxr.json").symlink_to(victim)
    assert agent.run() == 0
    assert victim.read_text() == "untouched"
    assert "probability" in agent.json("a.jpg")


def test_a_second_agent_on_one_state_folder_is_refused(agent: Agent) -> None:
    agent.start()
    wait_until_watching(agent)
    command = [sys.executable, "-m", "toolkit.cli.main", "agent", "--watch", str(agent.watch)]
    command += ["--bundle", str(agent.bundle), "--state", str(agent.state), "--once"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    assert second.returncode == 2
    assert "another agent runs" in second.stderr


def test_the_key_is_secret_and_names_tell_nothing(agent: Agent, xrays: Xrays) -> None:
    xrays.put(agent.watch / "Doe^Jane.jpg", old=True)
    assert agent.run() == 0
    assert (agent.state / "device.key").stat().st_mode & 0o777 == 0o600
    (text,) = agent.journal("SELECT record FROM result")[0]
    assert "Doe" not in text
    assert "Doe" not in agent.log.read_text()


def test_with_names_every_line_about_an_image_has_its_name(agent: Agent, xrays: Xrays) -> None:
    xrays.put(agent.watch / "good.jpg", old=True)
    (agent.watch / "bad.jpg").write_bytes(b"no image")
    assert agent.run("--names", "--grace", "0.1", "--settle", "0.1") == 0
    about = [line for line in agent.log.read_text().splitlines() if "image " in line]
    assert sorted(name for line in about for name in ("good.jpg", "bad.jpg") if f"image {name}" in line) == [
        "bad.jpg",
        "good.jpg",
    ]
    assert len(about) == 2


def test_ready_is_told_to_the_service_manager_and_the_stop_is_clean(agent: Agent, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(WAIT_S)
        agent.start(environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert heard(manager) == b"READY=1"
        start_s = time.monotonic()
        assert agent.terminate() == 0
        assert time.monotonic() - start_s < 5
        assert heard(manager) == b"STOPPING=1"


def heard(manager: socket.socket) -> bytes:
    """The next message that is no news of the status line."""
    while (message := manager.recv(1000)).startswith(b"STATUS="):
        pass
    return message


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"PK\x03\x04 rubbish", "damaged"), (b"", "damaged")]
)
def test_a_bad_bundle_ends_with_its_own_exit_code(
    agent: Agent, tmp_path: Path, content: bytes | None, message: str
) -> None:
    agent.bundle = tmp_path / "bad.cxr"
    if content is not None:
        agent.bundle.write_bytes(content)
    assert agent.run() == 6
    assert message in agent.log.read_text()


def test_a_missing_folder_is_told(agent: Agent) -> None:
    agent.watch.rmdir()
    assert agent.run() == 2
    assert "make the folder" in agent.log.read_text()


def test_a_single_run_on_a_folder_that_cannot_be_read_is_an_error(agent: Agent, xrays: Xrays) -> None:
    xrays.put(agent.watch / "1.jpg", old=True)
    agent.watch.chmod(0o300)
    # Root reads everything, unless the kernel takes that from it. The folder comes from the environment: of the path of
    # an option click asks first.
    inside = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []
    command = [*inside, sys.executable, *agent.program, "agent", "--once", "--bundle", str(agent.bundle)]
    places = {"CXR_EDGE_WATCH": str(agent.watch), "CXR_EDGE_STATE": str(agent.state)}
    done = subprocess.run(command, env={**os.environ, **places}, capture_output=True, text=True, timeout=WAIT_S)
    assert (done.returncode, done.stdout) == (8, "")
    assert f"the watched folder {agent.watch} cannot be read" in done.stderr
    agent.watch.chmod(0o700)
    assert agent.run() == 0
    assert agent.json("1.jpg")


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk needs a tmpfs, and that needs root")
def test_a_full_disk_stops_intake_and_goes_on_by_itself(agent: Agent, xrays: Xrays) -> None:
    agent.state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(agent.state)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk needs a tmpfs, and this root may not mount one")
    try:
        agent.start()
        wait_until_watching(agent)
        filler = agent.state / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))
        ids = {name: xrays.put(agent.watch / name) for name in (f"{number}.jpg" for number in range(40))}
        deadline_s = time.monotonic() + WAIT_S
        # Whichever is met first: the reserve, or a commit that no longer fits.
        told = "the disk is nearly full, intake waits", "cannot be read or written"
        while not any(text in agent.log.read_text() for text in told):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        assert agent.running
        filler.unlink()
        for name, id in ids.items():
            assert wait_for_json(agent, name)["id"] == id
        assert agent.terminate() == 0
    finally:
        if agent.running:
            agent.kill()
        subprocess.run(["umount", str(agent.state)], check=True)
