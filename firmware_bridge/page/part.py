"""The part that serves the page, with uvicorn."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING

from firmware_bridge.errors import ConfigError, MissingExtraError, ResourceError
from firmware_bridge.listening import not_yet
from firmware_bridge.page.settings import PageSettings, allowed_hosts, is_loopback, read_token
from firmware_bridge.parts import Context

if TYPE_CHECKING:
    from firmware_bridge.page.server import Server

# The first result comes first: nobody looks at the page of a device within the second that it starts.
_HEAD_START_S = 1.0


def make_part(context: Context) -> PagePart | None:
    """The part, unless it is turned off.

    Raises:
        ConfigError: an address that is none, or a token that is missing, unreadable or too short.
        MissingExtraError: the extra `page` is not installed.
    """
    settings = context.settings.section(PageSettings)
    if context.once or not settings.enabled:
        return None
    from importlib.util import find_spec

    for module in ("uvicorn", "starlette"):
        if find_spec(module) is None:
            raise MissingExtraError.for_module(module, "page")
    return PagePart(context, settings)


class PagePart:
    """Serves until it is stopped."""

    name = "page"

    def __init__(self, context: Context, settings: PageSettings) -> None:
        self._context = context
        self._settings = settings
        self._token = read_token(settings)
        is_loopback(settings.bind)
        self._stop = threading.Event()
        self._server: Server | None = None

    def run(self) -> None:
        """Serve until `stop`.

        Raises:
            ConfigError: the address cannot be listened at.
            ResourceError: another program has the port, or no network has the address yet; whoever runs the part tries
                again.
        """
        if self._stop.wait(_HEAD_START_S):
            return
        from firmware_bridge.page.server import Server

        with self._listen() as sock:
            self._server = Server(
                self._context,
                token=self._token,
                hosts=allowed_hosts(self._settings),
                secure=self._settings.behind_tls,
            )
            if not self._stop.is_set():
                asyncio.run(self._server.serve(sock))

    def _listen(self) -> socket.socket:
        settings = self._settings
        family = socket.AF_INET6 if ":" in settings.bind else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((settings.bind, settings.port))
        except OSError as error:
            sock.close()
            # X-rays are scored meanwhile, and the page is tried again.
            kind, came = (ResourceError, reason) if (reason := not_yet(error)) else (ConfigError, error.strerror)
            raise kind(
                f"the page cannot listen at {settings.bind} port {settings.port}",
                expected="an address of this device and a free port",
                came=came or str(error),
                do="mend bind or port in [page], or end the program that has the port",
            ) from error
        return sock

    def stop(self) -> None:
        """End soon."""
        self._stop.set()
        if self._server is not None:
            self._server.stop()
