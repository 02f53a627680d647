"""The engine `local`: processes of this machine, each with one interpreter. One that dies is replaced."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from firmware_bridge.errors import CxrEdgeError
from toolkit.archive.engine import MOST_FAILED_STARTS, Died, Done, Task, ended_at_start
from toolkit.archive.work import Setup, Worker
from toolkit.quiet import quiet

_CLOSE_S = 5.0
_NO_MEMORY = 77  # a worker's exit code


@dataclass(slots=True)
class _Place:
    """A worker's place: its process, and what it does."""

    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    task: int | None = None


class Processes:
    """An engine of `workers` processes. They end with this process, however it ends: their pipe does."""

    def __init__(self, setup: Setup, *, workers: int) -> None:
        self._setup = Handed(setup)
        self._failed_starts = 0
        self._failed: CxrEdgeError | None = None  # raised when what was finished before is handed over
        self._places = [self._start() for _ in range(workers)]

    @property
    def free(self) -> int:
        """Workers that are ready and have nothing to do."""
        return sum(place.ready and place.task is None for place in self._places)

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [place.process.pid for place in self._places if place.process.pid is not None]

    def submit(self, task: Task) -> None:
        """Give a task to a worker that has none."""
        place = next(place for place in self._places if place.ready and place.task is None)
        place.task = task.number
        # One that has just died is noticed by `wait`, like one that dies over the task.
        with contextlib.suppress(OSError):
            place.pipe.send(task.to_send())

    def wait(self, timeout_s: float) -> Sequence[Done | Died]:
        """See `Engine`.

        Raises:
            ResourceError: workers end before they are ready, again and again.
            CxrEdgeError: a worker's own, which all of them would meet; after what others finished meanwhile.
        """
        if self._failed is not None:
            raise self._failed
        found: list[Done | Died] = []
        readable = wait([place.pipe for place in self._places], timeout_s)
        for index, place in enumerate(self._places):
            if place.pipe not in readable:
                continue
            try:
                answer = place.pipe.recv()
            except (EOFError, OSError):
                if place.task is not None:
                    found.append(Died(place.task, self._bury(place)))
                else:
                    self._bury(place)
                self._places[index] = self._start()
                continue
            if isinstance(answer, CxrEdgeError):
                self._failed = answer
                continue
            self._failed_starts = 0
            if place.task is not None:
                found.append(Done(place.task, answer))
            place.ready, place.task = True, None
        if not found and self._failed is not None:
            raise self._failed
        return found

    def _bury(self, place: _Place) -> str:
        """Take leave of a worker that is gone; how it ended."""
        place.pipe.close()
        place.process.join(_CLOSE_S)
        if place.process.exitcode is None:  # it hangs in its end
            place.process.kill()
            place.process.join()
        code = place.process.exitcode
        how = f"the worker ended with exit code {code}"
        if code == _NO_MEMORY:
            how = "the worker ran out of memory"
        elif code is not None and code < 0:
            out_of_memory = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
            how = f"the worker was ended by signal {-code}{out_of_memory}"
        if not place.ready:
            self._failed_starts += 1
            if self._failed_starts >= MOST_FAILED_STARTS:
                raise ended_at_start(how)
        return how

    def _start(self) -> _Place:
        # Not a fork: that would copy locks and threads of this process in whatever state they are.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._setup.path), daemon=True)
        with without_interrupts():
            process.start()
        theirs.close()
        return _Place(process, ours)

    def close(self) -> None:
        """End all workers, also those at work."""
        for place in self._places:
            place.pipe.close()
            place.process.terminate()
        for place in self._places:
            place.process.join(_CLOSE_S)
            if place.process.exitcode is None:
                place.process.kill()
        self._setup.close()


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal; one that starts in here never hears it: its parent decides."""
    resource_tracker.ensure_running()  # its start, else a part of ours, lifts the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Handed:
    """A setup for processes that are about to start, in memory that ends with this process.

    Not among a process's arguments: these go through a pipe, and if the process is killed before it reads them, the
    one that started it waits for ever (`multiprocessing` holds both ends until it has written).
    """

    def __init__(self, setup: Setup) -> None:
        self._handle = os.memfd_create("cxr-edge-setup")
        with os.fdopen(os.dup(self._handle), "wb") as file:
            pickle.dump(setup, file)
        self.path = f"/proc/{os.getpid()}/fd/{self._handle}"

    def close(self) -> None:
        """No process starts any more."""
        os.close(self._handle)


def taken(path: str) -> Setup:
    """The setup of a `Handed`, in another process.

    Raises:
        OSError: the process that held it is gone.
    """
    with open(path, "rb") as file:  # noqa: PTH123 - each open of a memfd has a place of its own
        setup = pickle.load(file)  # noqa: S301 - from the process that started this one
    assert isinstance(setup, Setup)
    return setup


def _serve(pipe: Connection, setup: str) -> None:
    """Body of a worker: says that it is ready, then answers each list of items with their rows, or with an error."""
    try:
        with quiet():
            worker = Worker(taken(setup))
        pipe.send(None)
        while True:
            pipe.send(worker.score(pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError, FileNotFoundError):
        return  # the run is over
    except CxrEdgeError as error:
        pipe.send(error)
    except MemoryError:
        os._exit(_NO_MEMORY)  # at once: whatever else is done takes memory
