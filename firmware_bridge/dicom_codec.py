"""Compressed DICOM pixels through a process of their own, with a limit in time and memory.

JPEG 2000, JPEG-LS, JPEG lossless and RLE are decoded in C and C++ that was not written with attackers in mind. A frame
that makes it hang, crash or allocate without end costs that one file. The process is started when the first such frame
comes, serves one frame after the other, and is replaced when it had to be ended.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import UnreadableImage
from firmware_bridge.headers import damaged, unsupported

__all__ = ["Frame", "decode_frame", "limit_s"]

_START_S = 60.0
_BASE_S, _PER_MEGAPIXEL_S = 2.0, 1.0
# The limit is one of processor time, which the kernel keeps: a busy machine is not the frame's fault. This is for a
# decoder that waits for something that never comes.
_WALL_FACTOR, _WALL_S = 10.0, 60.0
_PIPE_BYTES = 2**20
_STEP_BYTES = 2**16
_MAX_LINE_BYTES = 4096
_KEPT = 2  # idle processes; a thread that decodes beside others starts one more for the time being
_TOO_LONG = "compressed DICOM pixels that take the decoder too long"
_EXPORT = "export it as a single grey X-ray (DX or CR), 8 to 16 bit"
_INSTALL = "pip install 'cxr-edge[dicom]', or " + _EXPORT + ", uncompressed"

Frame = dict[str, Any]
"""What the process is told: syntax, rows, columns, bits_allocated, bits_stored, signed."""


def limit_s(rows: int, columns: int) -> float:
    """How much processor time (s) a frame may take; JPEG 2000 takes 0.1 s a megapixel on a workstation."""
    return _BASE_S + _PER_MEGAPIXEL_S * rows * columns / 1e6


def decode_frame(content: bytes, frame: Frame) -> NDArray[Any]:
    """Stored values of one compressed frame: (rows, columns) of 8 or 16 bit.

    Raises:
        UnreadableImage: damaged, or the decoder took too long, too much memory, or crashed.
        UnsupportedImage: no decoder for its transfer syntax.
    """
    try:
        array = _decode_once(content, frame)
    except _Gone:  # it died between two frames (the kernel may have needed its memory): that is not this frame's doing
        array = _decode_once(content, frame)
    if array.shape != (frame["rows"], frame["columns"]) or array.dtype.itemsize > 2:
        raise damaged(f"pixels of shape {array.shape} and type {array.dtype}")
    return array


def _decode_once(content: bytes, frame: Frame) -> NDArray[Any]:
    process = _borrow()
    healthy = False
    try:
        array = process.decode(content, frame)
        healthy = True
    except _Refused as refused:
        healthy = True
        raise refused.error from None
    finally:
        _give_back(process, healthy=healthy)
    return array


class _Refused(Exception):
    """The process is well; the frame is not."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class _Gone(Exception):
    """The process ended before it had the frame."""


class _Process:
    """One decoding process. Not thread-safe."""

    def __init__(self) -> None:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "firmware_bridge.codec_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
            start_new_session=True,  # Ctrl-C is the agent's; this process ends with its standard input
        )
        for pipe in self._pipes:
            os.set_blocking(pipe.fileno(), False)
        self._rest = b""
        self._deadline_s = time.monotonic() + _START_S
        try:
            self._line()
        except BaseException:
            self.end()
            raise

    @property
    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        return self._child.stdin, self._child.stdout

    @property
    def alive(self) -> bool:
        """Whether it can take another frame."""
        return self._child.poll() is None

    def decode(self, content: bytes, frame: Frame) -> NDArray[Any]:
        """See `decode_frame`; raises `_Refused` where only the frame is to blame."""
        most_s = limit_s(frame["rows"], frame["columns"])
        self._deadline_s = time.monotonic() + _WALL_FACTOR * most_s + _WALL_S
        self._write(json.dumps({**frame, "bytes": len(content), "limit_s": most_s}).encode() + b"\n" + content)
        answer = self._line()
        if "unsupported" in answer:
            from pydicom.uid import UID

            came = f"a DICOM file compressed as {UID(frame['syntax']).name[:60]}"
            if answer["unsupported"] == "not installed":
                raise _Refused(unsupported(came + "; its decoder is not installed", do=_INSTALL))
            raise _Refused(unsupported(came, do=_EXPORT))
        if "damaged" in answer:
            raise _Refused(damaged(f"compressed DICOM pixels that cannot be decoded ({answer['damaged']})"))
        shape, dtype = tuple(answer["shape"]), np.dtype(answer["dtype"])
        size_bytes = int(np.prod(shape)) * dtype.itemsize
        if size_bytes > 2 * frame["rows"] * frame["columns"]:
            raise damaged(f"pixels of shape {shape} and type {dtype}")
        return np.frombuffer(self._exactly(size_bytes), dtype).reshape(shape)

    def _write(self, content: bytes) -> None:
        view, target = memoryview(content), self._pipes[0]
        while view:
            self._wait(writing=True)
            try:
                view = view[os.write(target.fileno(), view[:_PIPE_BYTES]) :]
            except BrokenPipeError as error:
                raise _Gone from error

    def _line(self) -> dict[str, Any]:
        while b"\n" not in self._rest and len(self._rest) < _MAX_LINE_BYTES:
            self._rest += self._some()
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _exactly(self, size_bytes: int) -> bytearray:
        content, filled = bytearray(size_bytes), len(self._rest)
        content[:filled], self._rest = self._rest[:size_bytes], b""
        while filled < size_bytes:
            some = self._some(size_bytes - filled)
            content[filled : filled + len(some)] = some
            filled += len(some)
        return content

    def _some(self, most_bytes: int = _STEP_BYTES) -> bytes:
        self._wait(writing=False)
        some = os.read(self._pipes[1].fileno(), min(most_bytes, _PIPE_BYTES))
        if not some:
            raise self._died()
        return some

    def _died(self) -> UnreadableImage:
        if self._child.wait() == -signal.SIGXCPU:
            return damaged(_TOO_LONG)
        return damaged("compressed DICOM pixels on which the decoder crashed, or which need too much memory")

    def _wait(self, *, writing: bool) -> None:
        """Until the pipe is ready.

        Raises:
            UnreadableImage: the frame's time is over.
        """
        stdin, stdout = self._pipes
        left_s = max(0.0, self._deadline_s - time.monotonic())
        ready = select.select([] if writing else [stdout], [stdin] if writing else [], [], left_s)
        if not any(ready):
            raise damaged(_TOO_LONG)

    def end(self) -> None:
        """Kill it, and wait for that."""
        self._child.kill()
        self._child.wait()
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.close()


_mutex = threading.Lock()
_idle: list[_Process] = []


def _borrow() -> _Process:
    with _mutex:
        while _idle:
            process = _idle.pop()
            if process.alive:
                return process
            process.end()
    return _Process()


def _give_back(process: _Process, *, healthy: bool) -> None:
    with _mutex:
        if healthy and len(_idle) < _KEPT:
            _idle.append(process)
            return
    process.end()


def _forget() -> None:
    """In a forked child: the processes are the parent's; two that wrote into one pipe would mix their frames."""
    global _mutex
    _mutex = threading.Lock()
    _idle.clear()


def _end_all() -> None:
    with _mutex:
        while _idle:
            _idle.pop().end()


os.register_at_fork(after_in_child=_forget)
atexit.register(_end_all)
