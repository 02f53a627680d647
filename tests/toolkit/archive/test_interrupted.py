"""A run that is cut off in every way: nothing is lost, nothing is there twice, and the same command goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.toolkit.archive.conftest import COMMAND, paths_of, unreadable_of, workers_of
from toolkit.archive.engine import Died, Done, Task
from toolkit.archive.names import Item
from toolkit.archive.run import ScoreSummary
from toolkit.archive.work import Scored

psutil = pytest.importorskip("psutil")

Start = Callable[..., "subprocess.Popen[str]"]
WAIT_S = 120.0
ALL = 1212
KILLS = 2


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


def parts(out: Path) -> int:
    return len(list(out.glob("part-*.parquet")))


def assert_whole(out: Path, many: Path, count: int = ALL) -> None:
    paths = paths_of(out)
    assert len(paths) == len(set(paths)) == count
    assert unreadable_of(out) == []
    assert set(paths) == {str(path.relative_to(many)) for path in many.rglob("*") if path.is_file()}
    assert list(out.rglob(".*.part*")) == []


def test_killed_again_and_again(many: Path, out: Path, start: Start) -> None:
    kills = 0
    while True:
        run = start(many, "--out", out, "--commit-every", "0.2", "--workers", "2")
        before = parts(out)
        try:
            more = random.randint(0, 1) if kills < KILLS else ALL
            until(lambda: run.poll() is not None or parts(out) > before + more, "no part")  # noqa: B023
            if run.poll() is not None:
                break
            workers = workers_of(run.pid)
            run.kill()
            run.wait()
            kills += 1
            # Workers do not outlive the run.
            until(lambda: not any(psutil.pid_exists(pid) for pid in workers), "a worker is left")  # noqa: B023
        finally:
            run.communicate()
    assert run.returncode == 0
    assert kills
    assert_whole(out, many)


def test_killed_workers_are_replaced_and_their_xrays_tried_again(many: Path, out: Path, start: Start) -> None:
    run = start(many, "--out", out, "--commit-every", "0.2", "--workers", "2")
    for seen in range(2):
        until(lambda: parts(out) > seen or run.poll() is not None, "no part")  # noqa: B023
        if run.poll() is None:
            for pid in workers_of(run.pid)[: 1 + seen % 2]:
                os.kill(pid, signal.SIGKILL)
    _, told = run.communicate(timeout=WAIT_S)
    assert run.returncode == 0, told
    assert_whole(out, many)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"])
def test_an_interrupt_keeps_what_is_finished(number: int, code: int, many: Path, out: Path, start: Start) -> None:
    run = start(many, "--out", out, "--workers", "2")  # with a minute between two parts
    until(lambda: (out / "_run.json").exists() and len(workers_of(run.pid)) == 2, "no workers")
    time.sleep(1.2)  # an idle machine scores them all in three
    os.killpg(run.pid, number)  # as a terminal or a queue does: all processes of it
    _, told = run.communicate(timeout=WAIT_S)
    assert run.returncode == code
    assert "interrupted; what was finished before stands" in told
    assert "Traceback" not in told
    finished = len(paths_of(out)) if parts(out) else 0
    again = start(many, "--out", out, "--json")
    told, _ = again.communicate(timeout=WAIT_S)
    assert again.returncode == 0
    assert f'"before": {finished}' in told
    assert_whole(out, many)


def test_a_second_run_on_the_same_out_is_refused(many: Path, out: Path, start: Start) -> None:
    run = start(many, "--out", out, "--workers", "1")
    until(lambda: (out / "_run.json").exists(), "no start")
    second = subprocess.run([*COMMAND, str(many), "--out", str(out)], capture_output=True, text=True, timeout=WAIT_S)
    assert second.returncode == 2
    assert "another process works in" in second.stderr
    assert "--out" in second.stderr
    run.kill()


@pytest.mark.parametrize("what", ["moved", "lock removed"])
def test_a_folder_that_goes_away_ends_the_run_and_nothing_is_twice_or_missing(
    what: str, many: Path, out: Path, start: Start
) -> None:
    """As an unmounted share does: what comes later must not go into another folder of that name."""
    run = start(many, "--out", out, "--commit-every", "0.2", "--workers", "1")
    until(lambda: parts(out) or run.poll() is not None, "no part")
    if what == "moved":
        out.rename(out.parent / "moved")
    else:
        (out / ".lock").unlink()
    _, told = run.communicate(timeout=WAIT_S)
    assert run.returncode == 8, told
    assert "is not the folder any more that this run began in" in told
    if what == "moved":
        assert not out.exists()
        (out.parent / "moved").rename(out)
    again = start(many, "--out", out)
    _, told = again.communicate(timeout=WAIT_S)
    assert again.returncode == 0, told
    assert_whole(out, many)


class Deadly(BaseHTTPRequestHandler):
    """Serves one X-ray; whoever asks for `deadly.jpg` is killed, as the system does when memory runs out."""

    xray = b""
    deaths = 0

    def do_GET(self) -> None:
        if "deadly" in self.path:
            type(self).deaths += 1
            host, port = self.client_address[:2]
            for one in psutil.net_connections("tcp4"):
                if one.laddr == (host, port) and one.pid:
                    os.kill(one.pid, signal.SIGKILL)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.xray)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(self.xray)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def deadly(samples: Path) -> Iterator[str]:
    Deadly.xray, Deadly.deaths = next((samples / "chest_xray").rglob("*.jpg")).read_bytes(), 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Deadly)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_an_xray_that_kills_three_workers_is_unreadable_and_the_others_are_scored(
    deadly: str, out: Path, tmp_path: Path, score: Callable[..., ScoreSummary]
) -> None:
    names = [f"{deadly}/{number}.jpg" for number in range(40)]
    pq.write_table(pa.table({"path": [*names[:7], f"{deadly}/deadly.jpg", *names[7:]]}), tmp_path / "l.parquet")
    done = score(tmp_path / "l.parquet", workers=2)
    assert Deadly.deaths == 3
    assert (done.scored + done.refused, done.unreadable) == (40, 1)
    assert sorted(paths_of(out)) == sorted(names)
    (row,) = unreadable_of(out)
    assert row["path"] == f"{deadly}/deadly.jpg"
    assert "3 workers died over it" in row["came"]
    assert "signal 9" in row["came"]
    assert "--retry-unreadable" in row["do"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk needs a tmpfs, and that needs root")
def test_a_full_disk(many: Path, tmp_path: Path, start: Start) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", disk], capture_output=True).returncode:
        pytest.skip("a small disk needs a tmpfs, and this root may not mount one")
    try:
        out = disk / "results.parquet"
        run = start(many, "--out", out, "--commit-every", "0.2")
        _, told = run.communicate(timeout=WAIT_S)
        assert run.returncode == 8, told
        assert "the disk is full" in told
        stands = paths_of(out)
        assert 0 < len(stands) < ALL
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        again = start(many, "--out", out, "--json")
        told, _ = again.communicate(timeout=WAIT_S)
        assert again.returncode == 0
        assert f'"before": {len(stands)}' in told
        assert_whole(out, many)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_workers_that_never_start_end_the_run(archive: Path, out: Path, tmp_path: Path) -> None:
    """Not with a list of unreadable X-rays: it is not their fault."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, os, signal\nif '--multiprocessing-fork' in sys.argv: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    told = subprocess.run(
        [*COMMAND, str(archive), "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert told.returncode == 8, told.stderr
    assert "workers in a row ended before they were ready" in told.stderr
    assert unreadable_of(out) == []


class Careless:
    """An engine whose worker dies over the tasks that one says, so that chance has no part."""

    def __init__(self, deadly: str) -> None:
        self._deadly, self._task = deadly, None
        self.tasks: list[tuple[str, ...]] = []

    @property
    def free(self) -> int:
        return int(self._task is None)

    def submit(self, task: Task) -> None:
        self._task = task
        self.tasks.append(tuple(item.path for item in task.items))

    def wait(self, timeout_s: float) -> list[Done | Died]:
        task, self._task = self._task, None
        if task is None:
            return []
        if self._deadly in self.tasks[-1]:
            return [Died(task.number, "ended")]
        return [Done(task.number, [Scored({"path": item.path}, True) for item in task.items])]

    def close(self) -> None:
        """Nothing."""


def test_only_the_deadly_one_is_given_up() -> None:
    from toolkit.archive.dispatch import dispatch

    engine = Careless("5")
    items = iter([Item(str(number), "") for number in range(10)])
    found = [one for some in dispatch(items, engine, task_items=4) for one in some]
    assert sorted(item.path for item, _ in found) == [str(number) for number in range(10)]
    assert [item.path for item, scored in found if not scored.readable] == ["5"]
    assert engine.tasks.count(("5",)) == 2
    assert sum("5" in task for task in engine.tasks) == 3


class Wide(Careless):
    """An engine that takes whatever comes, as one of a thousand actors does."""

    def __init__(self) -> None:
        super().__init__("")
        self._all: list[Task] = []

    @property
    def free(self) -> int:
        return 1000

    def submit(self, task: Task) -> None:
        self._all.append(task)

    def wait(self, timeout_s: float) -> list[Done | Died]:
        done, self._all = self._all, []
        return [Done(task.number, [Scored({"path": item.path}, True) for item in task.items]) for task in done]


def test_what_is_finished_does_not_wait_for_a_listing_that_stalls() -> None:
    from toolkit.archive.dispatch import dispatch, listed_ahead

    looked = threading.Event()

    def stalling() -> Iterator[Item]:
        yield from (Item(str(number), "") for number in range(40))
        assert looked.wait(WAIT_S)
        yield Item("last", "")

    found: list[str] = []
    for some in dispatch(listed_ahead(stalling()), Wide()):
        found += [item.path for item, _ in some]
        if len(found) == 40:
            looked.set()
    assert found == [*map(str, range(40)), "last"]


def test_a_listing_that_fails_raises_where_it_is_used() -> None:
    from toolkit.archive.dispatch import listed_ahead

    def failing() -> Iterator[Item]:
        yield Item("a", "a")
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        list(listed_ahead(failing()))
    endless = listed_ahead(Item(str(number), "") for number in iter(int, 1))
    next(endless)
    endless.close()  # and its thread ends
    until(lambda: not any(thread.name == "listing" for thread in threading.enumerate()), "the thread goes on")


def test_memory_does_not_grow_with_what_is_done() -> None:
    """The set of a million paths that are done stays on the disk."""
    code = (
        "from toolkit.archive.seen import Seen\nfrom toolkit.memory import resident_bytes\n"
        "seen = Seen()\nbefore = resident_bytes()\n"
        "assert all(seen.add(f'year/month/{n}.dcm') for n in range(1_000_000))\n"
        "assert not seen.add('year/month/7.dcm') and seen.count == 1_000_000\n"
        "print(resident_bytes() - before)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert int(told.stdout) < 100e6
