"""The engine `ray`: actors on a Ray cluster, or on a Ray of this machine's own, each with one interpreter.

Ray runs in a process of its own (`ray_driver`). When a cluster goes away, Ray may end the process that it is loaded
in, and what that process had finished would go with it; here only the helper ends, and this process tells the error
and keeps what is done.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

from firmware_bridge.errors import ClusterError, CxrEdgeError
from toolkit.archive.engine import Died, Done, Task
from toolkit.archive.processes import Handed, without_interrupts
from toolkit.archive.work import Setup

_CONNECT_S = 10.0
_ANSWER_S = 20.0
# What a client of HTTP/2 sends first, with no setting of its own; a server's first frame is one of settings, too.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS, _HEADER_BYTES = 4, 9
# A Ray of one's own starts in 5 s; a busy cluster may take minutes to start actors.
_START_S = 300.0
# The helper says something every 5 s: its silence means that Ray holds it for good.
_SILENCE_S = 60.0
_CLOSE_S = 20.0


class RayEngine:
    """An engine on Ray.

    Args:
        setup: for the workers.
        workers: actors; None: one for each CPU that the cluster has now.
        address: of the cluster, "host:port"; empty: start one here, and stop it at the end.

    Raises:
        ClusterError: the cluster does not answer, or has no room.
    """

    def __init__(self, setup: Setup, *, workers: int | None, address: str) -> None:
        if address:
            check_answers(address)
        self._address = address
        self._running = 0
        self._found: list[Done | Died] = []
        self._failed: CxrEdgeError | None = None  # raised when what was finished before is handed over
        handed = Handed(setup)
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        from toolkit.archive.ray_driver import serve

        self._process = context.Process(target=serve, args=(theirs, handed.path, workers, address))
        with without_interrupts():
            self._process.start()
        theirs.close()
        try:
            answer = self._receive(_START_S)
        except BaseException:
            self.close()
            raise
        finally:
            handed.close()
        # Twice as many tasks as actors: none of them waits for this process.
        self._most = 2 * int(answer)

    @property
    def free(self) -> int:
        """How many more tasks it takes now."""
        return self._most - self._running

    def submit(self, task: Task) -> None:
        """Hand a task over."""
        self._running += 1
        # Else, with many actors, both ends come to wait in `send` until the other one reads.
        self._drain(0)
        if self._failed is None:
            try:
                self._pipe.send((task.number, task.to_send()))
            except OSError:
                self._failed = self._gone()

    def wait(self, timeout_s: float) -> Sequence[Done | Died]:
        """See `Engine`.

        Raises:
            ClusterError: the cluster is gone.
        """
        self._drain(timeout_s)
        found, self._found = self._found, []
        self._running -= len(found)
        if not found and self._failed is not None:
            raise self._failed
        if time.monotonic() - self._heard_s > _SILENCE_S:
            raise self._gone()
        return found

    def _drain(self, timeout_s: float) -> None:
        """Take what has come; where nothing has, wait for it."""
        deadline_s = time.monotonic() + timeout_s
        try:
            while self._failed is None:
                left_s = 0.0 if self._found else max(0.0, deadline_s - time.monotonic())
                if not self._pipe.poll(left_s):
                    break
                answer = self._receive(0)
                if isinstance(answer, Done | Died):
                    self._found.append(answer)
        except CxrEdgeError as error:
            self._failed = error

    def _receive(self, timeout_s: float) -> Any:
        try:
            if not self._pipe.poll(timeout_s):
                raise self._gone()
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if isinstance(answer, CxrEdgeError):
            raise answer
        self._heard_s = time.monotonic()
        return answer

    def _gone(self) -> ClusterError:
        self._process.join(1)
        code = self._process.exitcode
        return cluster_error(
            self._address, "it does not answer any more" if code is None else f"Ray ended its driver (exit code {code})"
        )

    def close(self) -> None:
        """End the actors, and the Ray of one's own."""
        self._pipe.close()
        self._process.join(_CLOSE_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


def check_answers(address: str) -> None:
    """Knock at a cluster's door, and hear whether gRPC answers (RFC 9113, 3.4): Ray itself tries for minutes.

    Raises:
        ClusterError: nobody opens or says what a Ray would, or the address cannot be one.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and host and port.isdigit()):
        raise cluster_error(address, "no HOST:PORT")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S) as door:
            if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
                _require_settings(door, address)
    except (OSError, OverflowError) as error:
        raise cluster_error(address, getattr(error, "strerror", None) or str(error)) from error


def _require_settings(door: socket.socket, address: str) -> None:
    end_s, header = time.monotonic() + _ANSWER_S, b""
    try:
        door.sendall(_PREFACE)
        # In pieces as it comes through a tunnel; MSG_WAITALL does not wait for all of them on a socket with a timeout.
        while len(header) < _HEADER_BYTES:
            door.settimeout(max(0.01, end_s - time.monotonic()))
            if not (piece := door.recv(_HEADER_BYTES - len(header))):
                break
            header += piece
    except TimeoutError as error:
        raise cluster_error(address, f"it took the connection and said nothing for {_ANSWER_S:.0f} s") from error
    if len(header) < _HEADER_BYTES or header[3] != _SETTINGS:
        raise cluster_error(address, "something that is no Ray answers there")


def cluster_error(address: str, came: str) -> ClusterError:
    """The error for a cluster that cannot be used, or is gone."""
    node = ""
    if address and not address.startswith("ray://"):
        node = f", and whether this machine is one of its nodes (`ray start --address={address} --num-cpus=0`; "
        node += "from elsewhere: --ray-address ray://HEAD:10001)"
    return ClusterError(
        f"the Ray cluster {address or 'of this machine'} cannot be used",
        expected="a cluster that answers, with the same cxr-edge on each node",
        came=came,
        do=f"see `ray status` there, whether it asks for a token (RAY_AUTH_TOKEN){node}; then give the same command "
        "again: what is done stands",
    )
