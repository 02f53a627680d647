"""The page's addresses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.resources import files
from urllib.parse import parse_qs

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from firmware_bridge.metrics import CONTENT_TYPE, exposition
from firmware_bridge.page.guard import COOKIE, SESSION_S, Guard, make_session, same
from firmware_bridge.page.news import News
from firmware_bridge.page.picture import LARGE_PX, SMALL_PX, Pictures
from firmware_bridge.parts import Context
from firmware_bridge.status import snapshot, works
from firmware_bridge.telemetry import Telemetry

_HEARTBEAT_S = 5.0
_SEND_S = 20.0
_MOST_BODY_BYTES = 4096
_MOST_STREAMS = 16
_BODY_S = 10.0
_ID_LENGTH = 64
Answer = Callable[[Request], Awaitable[Response]]
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class Page:
    """The application.

    Args:
        context: of the agent.
        token: empty: no login.
        hosts: see `settings.allowed_hosts`.
        secure: mark the login cookie for HTTPS alone.
    """

    def __init__(self, context: Context, *, token: str, hosts: frozenset[str], secure: bool) -> None:
        self._context = context
        self._token = token
        self._secure = secure
        self.news = News(context)
        self._pictures = Pictures(context.state, context.watch)
        self._telemetry = Telemetry(context.journal, waiting=lambda: context.intake.waiting)
        self._streams = 0
        self._login_page = _file("login.html")
        routes = [
            Route("/", _file("index.html")),
            Route("/page.css", _file("page.css")),
            Route("/page.js", _file("page.js")),
            Route("/icon.svg", _file("icon.svg")),
            Route("/login", self._log_in if token else _home, methods=["GET", "POST"]),
            Route("/api/state", self._state),
            Route("/api/events", self._events),
            Route("/xray/{id}.jpg", self._picture(LARGE_PX)),
            Route("/thumb/{id}.jpg", self._picture(SMALL_PX)),
            Route("/overlay/{id}.png", self._overlay),
            Route("/metrics", self._metrics),
            Route("/healthz", self._healthz),
        ]
        self._guard = Guard(Starlette(routes=routes), hosts=hosts, token=token)
        self.app: ASGIApp = self._guard

    async def _state(self, _request: Request) -> Response:
        return Response(await run_in_threadpool(self.news.text), media_type="application/json")

    async def _events(self, _request: Request) -> Response:
        if self._streams >= _MOST_STREAMS:
            raise HTTPException(503, "Too many pages are open.")
        return _Stream(self)

    async def stream(self, send: Send) -> None:
        """Send what is to be seen, whenever it changes: the newest state, never a queue of older ones.

        So a browser that does not read holds one state, and is cut off after a while.
        """
        self._streams += 1
        try:
            sent = ""
            while True:
                text = await run_in_threadpool(self.news.text)
                data = f"data: {text}\n\n" if text != sent else ":\n\n"
                body = {"type": "http.response.body", "body": data.encode(), "more_body": True}
                await asyncio.wait_for(send(body), _SEND_S)
                sent = text
                await self.news.wait(_HEARTBEAT_S)
        finally:
            self._streams -= 1

    def _picture(self, longest_px: int) -> Answer:
        async def answer(request: Request) -> Response:
            data = await run_in_threadpool(self._pictures.jpeg, _id_of(request), longest_px)
            if data is None:
                raise HTTPException(404, "The X-ray is not there any more.")
            return Response(data, media_type="image/jpeg")

        return answer

    async def _overlay(self, request: Request) -> Response:
        data = await run_in_threadpool(self._pictures.overlay, _id_of(request))
        if data is None:
            raise HTTPException(404, "There is no heat map.")
        return Response(data, media_type="image/png")

    async def _metrics(self, _request: Request) -> Response:
        def text() -> str:
            return exposition(snapshot(self._context), self._telemetry.sample())

        return Response(await run_in_threadpool(text), headers={"content-type": CONTENT_TYPE})

    async def _healthz(self, _request: Request) -> Response:
        problems = self._context.health.problems()
        if works(problems):
            return PlainTextResponse("ok\n")
        # Names alone: this is open to whoever reaches the port, and texts hold paths.
        return PlainTextResponse("".join(f"{name}\n" for name in sorted(problems)), 503)

    async def _log_in(self, request: Request) -> Response:
        if request.method in ("GET", "HEAD"):
            return await self._login_page(request)
        given = parse_qs((await _body(request)).decode("utf-8", "replace")).get("token", [""])[0]
        if not await self._guard.turnstile.passes(request.scope, lambda: same(given.strip(), self._token)):
            return RedirectResponse("/login?wrong", 303)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            COOKIE, make_session(self._token), max_age=SESSION_S, httponly=True, samesite="strict", secure=self._secure
        )
        return answer


class _Stream(Response):
    """Server-sent events (HTML standard, 9.2)."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        gone = asyncio.ensure_future(_gone(receive))
        stream = asyncio.ensure_future(self._page.stream(send))
        await asyncio.wait([gone, stream], return_when=asyncio.FIRST_COMPLETED)
        for task in (gone, stream):
            task.cancel()
        results = await asyncio.gather(gone, stream, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, (TimeoutError, asyncio.TimeoutError, OSError)):
                raise result


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _id_of(request: Request) -> str:
    found = str(request.path_params["id"])
    if len(found) != _ID_LENGTH or not set(found) <= set("0123456789abcdef"):
        raise HTTPException(404, "No such result.")
    return found


async def _body(request: Request) -> bytes:
    data = b""
    try:
        with anyio.fail_after(_BODY_S):
            async for part in request.stream():
                data += part
                if len(data) > _MOST_BODY_BYTES:
                    raise HTTPException(413, "Too long.")
    except (TimeoutError, ClientDisconnect) as error:
        raise HTTPException(408, "Too slow.") from error
    return data


async def _home(_request: Request) -> Response:
    return RedirectResponse("/", 303)


def _file(name: str) -> Answer:
    data = (files("firmware_bridge.page") / "static" / name).read_bytes()
    kind = _TYPES[name.rpartition(".")[2]]

    async def answer(_request: Request) -> Response:
        return Response(data, media_type=kind)

    return answer
