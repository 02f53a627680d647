"""The process that Ray runs in: actors, their tasks, and what became of these, told to `RayEngine` through a pipe.

Plain actors, not Ray Data: it retries what fails as often as it likes and does not say over which X-ray a worker died,
and its sources are listed before they are read.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import secrets
import time
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from firmware_bridge.errors import CxrEdgeError
from toolkit.archive.engine import MOST_FAILED_STARTS, Died, Done
from toolkit.archive.names import Item
from toolkit.archive.processes import taken
from toolkit.archive.ray_engine import check_answers, cluster_error
from toolkit.archive.work import Scored, Setup, Worker
from toolkit.extras import DISTRIBUTION

_LOOK_S = 0.1
_CHECK_S = 5.0
_OWN_STARTS = 3
_OBJECT_STORE_BYTES = 200 * 2**20  # holds one bundle and a few lists of rows


class Actor:
    """A worker on some node; errors of ours are values, so that Ray wraps none of them."""

    def load(self, setup: Setup, version: str) -> CxrEdgeError | None:
        """Load the model."""
        here = importlib.metadata.version(DISTRIBUTION)
        if here != version:
            return cluster_error("", f"cxr-edge {here} on {os.uname().nodename}, {version} where the run was started")
        try:
            self._worker = Worker(setup)
        except CxrEdgeError as error:
            return error
        return None

    def score(self, items: list[Item]) -> list[Scored] | CxrEdgeError:
        """Score items."""
        try:
            return self._worker.score(items)
        except CxrEdgeError as error:
            return error


def serve(pipe: Connection, setup: str, workers: int | None, address: str) -> None:
    """Body of the process: the number of actors first, then `Done` and `Died` for tasks, until the pipe closes."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to Ray's makers
    if not address:
        # Ray listens on all addresses of the machine, and runs the code of whoever may connect.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    elif _has_token():
        # `ray start` asks for the token where it finds one; `ray.init` alone does not show it. Others do not mind it.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of GPUs that nobody asked for
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            driver = _Driver(pipe, taken(setup), workers, address)
            try:
                driver.run()
            finally:
                driver.close()
        except CxrEdgeError as error:
            pipe.send(error)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # Ray raises its own, gRPC's and plain ones when a cluster goes away
            pipe.send(cluster_error(address, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))


def _has_token() -> bool:
    """Whether Ray would find a token: https://docs.ray.io/en/latest/ray-security/token-auth.html."""
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or Path("~/.ray/auth_token").expanduser().is_file()


def _connected(workers: int | None, address: str) -> Any:
    """The module `ray`, connected to a cluster or to a Ray that it starts here."""
    import ray

    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        ray.init(address=address, **quiet)
        return ray
    own = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES, "num_cpus": workers}
    for turn in range(_OWN_STARTS):
        try:
            ray.init(address="local", **own, **quiet)
            break
        except Exception:  # Ray gives its parts 30 s, which a machine at its limit does not keep
            ray.shutdown()
            if turn == _OWN_STARTS - 1:
                raise
    return ray


class _Driver:
    def __init__(self, pipe: Connection, setup: Setup, workers: int | None, address: str) -> None:
        ray = _connected(workers, address)
        self._ray = ray
        self._pipe = pipe
        self._address = address
        self._cluster = ray.get_runtime_context().gcs_address
        self._failed_starts = 0
        self._version = importlib.metadata.version(DISTRIBUTION)
        self._setup = ray.put(setup)
        self._make = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Actor)
        count = workers or int(ray.cluster_resources().get("CPU", 0))
        if count < 1:
            raise cluster_error(address, "a cluster without CPUs")
        self._backlog: deque[tuple[int, list[Item]]] = deque()
        self._idle: list[Any] = []
        # What each reference stands for: the actor and the number of its task; 0 while it loads.
        self._waits: dict[Any, tuple[Any, int]] = {}
        for _ in range(count):
            self._start()
        pipe.send(count)

    def close(self) -> None:
        """Leave the cluster; one of our own ends."""
        self._ray.shutdown()

    def run(self) -> None:
        """Give out tasks until the pipe closes."""
        look_s = 0.0
        while True:
            while self._pipe.poll(0 if self._waits else _LOOK_S):
                self._backlog.append(self._pipe.recv())
            while self._idle and self._backlog:
                actor, (number, items) = self._idle.pop(), self._backlog.popleft()
                self._waits[actor.score.remote(items)] = (actor, number)
            if self._waits:
                ready, _ = self._ray.wait(list(self._waits), num_returns=1, timeout=_LOOK_S)
                for reference in ready:
                    self._settle(reference)
            if time.monotonic() >= look_s:
                check_answers(self._cluster)
                self._pipe.send(None)  # still here
                look_s = time.monotonic() + _CHECK_S

    def _start(self) -> None:
        actor = self._make.remote()
        self._waits[actor.load.remote(self._setup, self._version)] = (actor, 0)

    def _settle(self, reference: Any) -> None:
        actor, number = self._waits.pop(reference)
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            # With the cluster all its actors end, and no X-ray is to blame.
            check_answers(self._cluster)
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor)  # one that is only out of reach must not keep its place
            how = " ".join(str(error).split())[:200]
            if number:
                self._pipe.send(Died(number, how))
            else:
                self._failed_starts += 1
                if self._failed_starts >= MOST_FAILED_STARTS:
                    raise cluster_error(self._address, f"actors that end before they are ready: {how}") from error
            self._start()
            return
        if isinstance(answer, CxrEdgeError):
            raise answer
        self._failed_starts = 0
        self._idle.append(actor)
        if number:
            self._pipe.send(Done(number, answer))
