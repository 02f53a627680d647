"""The device's end of a deployment over SSH: one request a line on standard input, answers as lines of JSON.

Reads until told to change something; the lock is held from the request "lock" until the connection ends or a switch is
ordered. An answer is {"done": ...} or {"error": {...}}; before it may come {"progress": ...}.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Protocol

from firmware_bridge.deploy import earlier, install, layers, manage, measure, orders, proving, release
from firmware_bridge.deploy.layout import UMASK, Layout
from firmware_bridge.deploy.translate import translated
from firmware_bridge.errors import CxrEdgeError

_PROGRESS_BYTES = 4_000_000
# A connection that was cut without a goodbye says nothing for hours. The other end sends an empty line every few
# seconds when it has nothing to ask; after so long without any, it is gone, and its lock must be free again.
_SILENCE_S = 30.0
_LOCK_WAIT_S = 60.0
Request = Mapping[str, Any]


class Source(Protocol):
    """Where requests come from."""

    def readline(self) -> bytes: ...  # noqa: D102
    def read(self, size: int) -> bytes: ...  # noqa: D102


class Server:
    """Answers one connection."""

    def __init__(self, source: Source, sink: BinaryIO, layout: Layout | None = None) -> None:
        self._source, self._sink = source, sink
        self._layout = layout or Layout()
        self._held = contextlib.ExitStack()
        self._requests: dict[str, Callable[[Request], Any]] = {
            "stock": self._stock,
            "lock": self._lock,
            "install": self._install,
            "prepare": self._prepare,
            "receive": self._receive,
            "commit": self._commit,
            "release": self._release,
            "engines": self._engines,
            "prove": self._prove,
            "switch": self._switch,
            "settle": self._settle,
            "prove_earlier": self._prove_earlier,
            "status": lambda _request: manage.status(self._layout),
            "logs": lambda request: manage.logs(lines=int(request["lines"]), since=str(request.get("since", ""))),
            "measure": self._measure,
            "uninstall": self._uninstall,
        }

    def run(self) -> None:
        """Answer until the other end is done."""
        with self._held:
            while line := self._source.readline():
                if not line.strip():
                    continue
                request = json.loads(line)
                try:
                    self._say({"done": self._requests[request["do"]](request)})
                except Exception as error:
                    self._say({"error": _told(error)})

    def _say(self, answer: Mapping[str, Any]) -> None:
        self._sink.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
        self._sink.flush()

    def _stock(self, request: Request) -> Any:
        return manage.stock(
            self._layout,
            wanted=dict(request["layers"]),
            secrets=list(request["secrets"]),
            every_byte=bool(request["every_byte"]),
        )

    def _lock(self, _request: Request) -> bool:
        return self._held.enter_context(orders.settled_and_locked(self._layout, wait_s=_LOCK_WAIT_S))

    def _install(self, request: Request) -> Any:
        return install.install(
            self._layout,
            secrets=request["secrets"],
            watch=request["watch"],
        )

    def _prepare(self, request: Request) -> Any:
        raw = self._source.read(int(request["bytes"]))
        return layers.prepare(self._layout, raw)

    def _receive(self, request: Request) -> None:
        stream = _Bounded(self._source, int(request["bytes"]))
        last = 0

        def progress(done_bytes: int) -> None:
            nonlocal last
            if done_bytes - last >= _PROGRESS_BYTES:
                last = done_bytes
                self._say({"progress": done_bytes})

        try:
            layers.receive(self._layout, request["hash"], io.BufferedReader(stream), progress=progress)
        finally:
            stream.drain()  # what comes after an error is no request

    def _commit(self, request: Request) -> None:
        finish = install.compile_layer if request["compile"] else lambda _part, _whole: None
        layers.commit(self._layout, request["hash"], finish=finish)

    def _release(self, request: Request) -> str:
        description = release.parse_description(request["description"])
        release.write_release(self._layout, description)
        return description.id

    def _engines(self, request: Request) -> Any:
        return proving.build_engines(self._layout, release.read_release(self._layout, request["id"]))

    def _prove(self, request: Request) -> Any:
        return proving.prove(self._layout, release.read_release(self._layout, request["id"]))

    def _switch(self, request: Request) -> Any:
        orders.order(
            self._layout,
            request["id"],
            watch_s=float(request["watch_s"]),
            keep=int(request["keep"]),
            reason=request["reason"],
            broker=bool(request["broker"]),
            token=request["token"],
        )
        self._held.close()  # the unit needs the lock now; the link `activating` keeps others off
        return self._settle(request)

    def _settle(self, request: Request) -> Any:
        if "token" in request:
            orders.require_ordered(self._layout, request["id"], request["token"], wait_s=_LOCK_WAIT_S)
        orders.resume(self._layout)
        id = request["id"]
        for line in orders.follow(self._layout, id, limit_s=orders.settle_limit_s(self._layout, id)):
            self._say({"progress": line})
        return orders.outcome(self._layout, id)

    def _prove_earlier(self, request: Request) -> Any:
        id, broker = earlier.prove_earlier(self._layout, request.get("to"))
        return {"id": id, "broker": broker}

    def _measure(self, request: Request) -> Any:
        stream = _Bounded(self._source, int(request["bytes"]))
        try:
            return measure.measure(
                self._layout,
                io.BufferedReader(stream),
                layers=request["layers"],
                arguments=request["arguments"],
                models=request["models"],
            )
        finally:
            stream.drain()

    def _uninstall(self, request: Request) -> Any:
        return manage.uninstall(self._layout, results=bool(request["results"]))


class _Bounded(io.RawIOBase):
    """The next so many bytes of a stream."""

    def __init__(self, source: Source, left: int) -> None:
        self._source, self._left = source, left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._source.read(min(len(buffer), self._left))
        if self._left and not data:
            raise EOFError("the connection ended in the middle")
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def drain(self) -> None:
        """Read to its end."""
        with contextlib.suppress(EOFError):
            while self._left:
                self.read(2**20)


def _told(error: Exception) -> dict[str, str]:
    known = error if isinstance(error, CxrEdgeError) else translated(error)
    return {"kind": type(known).__name__, **known.told()}


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer on these streams until they end."""
    os.umask(UMASK)
    Server(_Listening(source), sink).run()


class _Listening:
    """A stream whose silence ends the process: every lock goes with it, and no half-sent request is acted upon."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._since_s = 0.0
        threading.Thread(target=self._guard, daemon=True).start()

    def _guard(self) -> None:
        while True:
            time.sleep(1.0)
            since_s = self._since_s
            if since_s and time.monotonic() - since_s > _SILENCE_S:
                os._exit(1)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self._since_s = time.monotonic()
        yield
        self._since_s = 0.0

    def readline(self) -> bytes:
        """The next line."""
        with self._waiting():
            return self._source.readline()

    def read(self, size: int) -> bytes:
        """So many bytes; fewer only at the end."""
        with self._waiting():
            return self._source.read(size)
