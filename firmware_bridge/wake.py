"""Waking a thread that waits in `select`: one end of a socket pair that becomes readable."""

from __future__ import annotations

import socket


class Wake:
    """A pair of sockets. Thread-safe.

    Attributes:
        readable: the end that the waiting thread selects on, and empties.
    """

    def __init__(self) -> None:
        self.readable, self._writable = socket.socketpair()
        self.readable.setblocking(False)
        self._writable.setblocking(False)

    def up(self) -> None:
        """Wake the thread that waits. One that has ended is left alone."""
        # A full buffer means that it is awake anyway; a closed socket, that it has ended.
        try:
            self._writable.send(b"x")
        except OSError:
            return

    def close(self) -> None:
        """Close both ends."""
        self.readable.close()
        self._writable.close()
