"""The engine `ray`, on a real Ray of this machine: the same scores, deaths and a cluster that goes away."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from firmware_bridge.errors import ClusterError
from tests.toolkit.archive.conftest import COMMAND, paths_of, rows_of, unreadable_of
from tests.toolkit.archive.ray_nodes import Node, free_port, started
from toolkit.archive.engine import Done, Task
from toolkit.archive.names import Item
from toolkit.archive.ray_engine import RayEngine, check_answers, cluster_error
from toolkit.archive.run import ScoreOptions, _prepare

if importlib.util.find_spec("ray") is None:
    pytest.skip("needs Ray: pip install '.[ray]'", allow_module_level=True)

WAIT_S = 300.0
KNOCKING_S = 120.0  # Ray itself tries for minutes
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def cluster() -> Iterator[Node]:
    made = started(cpus=2)
    yield made
    made.stop()


def test_the_same_scores_to_the_last_bit(archive: Path, out: Path, tmp_path: Path, start: Start) -> None:
    """With a Ray that the command starts, and stops."""
    (archive / "broken.png").write_bytes(b"no picture")
    run = start(archive, "--out", out, "--engine", "ray", "--workers", "2")
    # Ray listens on every address and runs the code of whoever may connect: it has to ask for a token.
    token = ""
    while not token and run.poll() is None:
        for one in psutil.Process(run.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if one.name() == "gcs_server" and one.environ().get("RAY_AUTH_MODE") == "token":
                    token = one.environ()["RAY_AUTH_TOKEN"]
        time.sleep(0.05)
    assert len(token) == 64
    _, told = run.communicate(timeout=WAIT_S)
    assert run.returncode == 0, told
    local = tmp_path / "local.parquet"
    subprocess.run([*COMMAND, str(archive), "--out", str(local)], check=True, capture_output=True, timeout=WAIT_S)
    times = {"scored_at", "tried_at", "read_ms", "decode_ms", "lungs_ms", "preprocess_ms", "infer_ms"}
    for table in (rows_of, unreadable_of):
        assert table(local)
        one, other = ([{k: v for k, v in row.items() if k not in times} for row in table(p)] for p in (out, local))
        assert one == other


def test_many_answers_and_many_tasks_at_once_do_not_wait_for_each_other() -> None:
    """With two actors and names so long that one task, or two answers, fill a pipe."""
    setup, _ = _prepare(ScoreOptions(), {})
    names = [f"/{number}" + "/y" * 2000 for number in range(32)]
    items = tuple(Item(name, name) for name in names)
    engine = RayEngine(setup, workers=2, address="")
    try:
        for number in (1, 2):
            engine.submit(Task(number, items))
        time.sleep(5.0)  # both are answered, and nobody has looked
        rest = threading.Thread(target=lambda: [engine.submit(Task(number, items)) for number in (3, 4)], daemon=True)
        rest.start()
        rest.join(60.0)
        assert not rest.is_alive()
        found: list[int] = []
        while len(found) < 4:
            found += [one.number for one in engine.wait(1.0)]
        assert sorted(found) == [1, 2, 3, 4]
    finally:
        engine.close()


def test_what_was_finished_before_the_cluster_went_away_is_handed_over_first() -> None:
    engine = RayEngine.__new__(RayEngine)  # without a Ray: this test is the helper process
    engine._pipe, helper = multiprocessing.Pipe()
    engine._running, engine._found, engine._failed = 3, [], None
    engine._address, engine._heard_s = "a:1", time.monotonic()
    for answer in (Done(1, []), Done(2, []), cluster_error("a:1", "gone")):
        helper.send(answer)
    helper.close()
    assert [one.number for one in engine.wait(1.0)] == [1, 2]
    engine.submit(Task(4, (Item("a", "a"),)))  # no error yet: what was handed over has to be written first
    with pytest.raises(ClusterError, match="a:1"):
        engine.wait(1.0)


def test_a_cluster_that_does_not_answer(archive: Path, out: Path) -> None:
    # Two that Ray itself would wait for over five minutes: one that says nothing, and one that is something else.
    silent, web = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    doors = []

    def answer() -> None:
        doors.append(web.accept()[0])
        doors[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    threading.Thread(target=answer, daemon=True).start()
    for address, came in (
        (f"127.0.0.1:{free_port()}", "Connection refused"),
        ("nonsense", "no HOST:PORT"),
        (f"127.0.0.1:{silent.getsockname()[1]}", "said nothing"),
        (f"127.0.0.1:{web.getsockname()[1]}", "no Ray"),
    ):
        command = [*COMMAND, str(archive), "--out", str(out), "--engine", "ray", "--ray-address", address]
        told = subprocess.run(command, capture_output=True, text=True, timeout=KNOCKING_S)
        assert told.returncode == 9
        assert came in told.stderr
        assert "the same command again" in told.stderr
        assert "Traceback" not in told.stderr
    for one in (silent, web, *doors):
        one.close()


def test_an_answer_that_comes_in_pieces_is_heard_to_its_end() -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with server.accept()[0] as door:
            for byte in (0, 0, 0, 4, 0, 0, 0, 0, 0):  # a frame of settings, and nothing in it
                door.sendall(bytes((byte,)))
                time.sleep(0.02)
            door.recv(100)

    with server:
        threading.Thread(target=answer, daemon=True).start()
        check_answers(f"127.0.0.1:{server.getsockname()[1]}")


def test_killed_actors_and_a_cluster_that_goes_away(many: Path, out: Path, start: Start, cluster: Node) -> None:
    options = (many, "--out", out, "--engine", "ray", "--commit-every", "0.2", "--ray-address")
    # The token alone: that it is to be used, the command finds out by itself, as `ray start` does.
    run = start(*options, f"127.0.0.1:{cluster.port}", RAY_AUTH_TOKEN=cluster.environment["RAY_AUTH_TOKEN"])

    def parts(more_than: int) -> bool:
        deadline_s = time.monotonic() + WAIT_S
        while len(list(out.glob("part-*.parquet"))) <= more_than and run.poll() is None:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        return run.poll() is None

    assert parts(0), run.communicate()
    first = cluster.actors()
    assert first
    first[0].send_signal(signal.SIGKILL)
    before = len(list(out.glob("part-*.parquet")))
    assert parts(before + 1), run.communicate()
    cluster.stop()
    _, told = run.communicate(timeout=WAIT_S)
    assert run.returncode == 9, told
    assert "the Ray cluster" in told
    assert "Traceback" not in told
    finished = len(paths_of(out))
    assert 0 < finished < 1212

    # The same command goes on, with whatever engine there is.
    again = start(many, "--out", out, "--json")
    told, errors = again.communicate(timeout=WAIT_S)
    assert again.returncode == 0, errors
    assert f'"before": {finished}' in told
    assert len(paths_of(out)) == len(set(paths_of(out))) == 1212
    assert unreadable_of(out) == []


@pytest.mark.soak
def test_a_node_that_goes_away(many: Path, out: Path, start: Start, cluster: Node) -> None:
    """One of two: its X-rays are scored by the other, and none is put down as deadly."""
    other = started(cpus=1, head=cluster)
    try:
        options = ("--engine", "ray", "--ray-address", f"127.0.0.1:{cluster.port}", "--commit-every", "0.2")
        run = start(many, "--out", out, *options, **cluster.environment)
        while len(list(out.glob("part-*.parquet"))) < 2 or not other.actors():
            assert run.poll() is None, run.communicate()
            time.sleep(0.02)
    finally:
        other.stop()
    _, told = run.communicate(timeout=WAIT_S)
    assert run.returncode == 0, told
    assert len(paths_of(out)) == len(set(paths_of(out))) == 1212
    assert unreadable_of(out) == []
