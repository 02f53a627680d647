"""uvicorn with limits: how many connections, how long each may take, how much is kept for one that does not read."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from firmware_bridge.page.app import Page
from firmware_bridge.parts import Context

_MOST_CONNECTIONS = 64
_MOST_HEADER_BYTES = 16 * 1024
_WRITE_BUFFER_BYTES = 64 * 1024
# A request that is not there by then never comes.
_REQUEST_S = 10.0
# Nor does anybody take longer over a picture. Streams of news begin again by themselves.
_CONNECTION_S = 3600.0
_GOODBYE_S = 1


class _Protocol(H11Protocol):
    """Closes connections on which nobody asks; uvicorn itself waits for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._refused = len(self.connections) >= _MOST_CONNECTIONS
        if self._refused:
            transport.abort()
            return
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        self._request_timer = self.loop.call_later(_REQUEST_S, self._check, transport)
        self._life_timer = self.loop.call_later(_CONNECTION_S, transport.abort)

    def _check(self, transport: asyncio.Transport) -> None:
        # uvicorn's own annotation leaves out that there is none before the first request.
        if getattr(self, "cycle", None) is None:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._refused:
            self._request_timer.cancel()
            self._life_timer.cancel()
            super().connection_lost(exc)


class _Quiet(uvicorn.Server):
    """Sleeps until it is told to end; uvicorn itself looks ten times a second, which an idle device can do without."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        if not self.should_exit:
            await self._ended.wait()

    def end(self) -> None:
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ended.set)


class Server:
    """Serves the page; made and run in the part's thread.

    Args:
        context: of the agent.
        **options: see `Page`.
    """

    def __init__(self, context: Context, **options: Any) -> None:
        self._page = Page(context, **options)
        config = uvicorn.Config(
            self._page.app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=128,
            h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
            timeout_graceful_shutdown=_GOODBYE_S,
        )
        self._server = _Quiet(config)

    async def serve(self, sock: socket.socket) -> None:
        """Answer until `stop`."""
        self._page.news.open()
        try:
            await self._server.serve(sockets=[sock])
        finally:
            self._page.news.close()

    def stop(self) -> None:
        """End soon; called from another thread."""
        self._server.end()
