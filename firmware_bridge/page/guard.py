"""What stands before every request: the right host, a login where one is needed, headers that browsers obey."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "cxr-edge"
SESSION_S = 12 * 3600
_WRONG_S = 1.0
# Without a login: what the login itself needs, and whether the device works, which says nothing of any X-ray.
_OPEN = ("/login", "/healthz", "/page.css", "/icon.svg")
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    # X-rays must not lie in a browser's cache on a shared computer.
    "cache-control": "no-store",
    # One request for each connection: a connection that does nothing can then be told by its age alone.
    "connection": "close",
}


class Turnstile:
    """One guess at a time from each address, and a wrong one takes a second: others are not kept waiting by it."""

    def __init__(self) -> None:
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}

    async def passes(self, scope: Scope, right: Callable[[], bool]) -> bool:
        """Whether what was given is right, when its turn has come."""
        address = (scope.get("client") or ("",))[0]
        lock, waiting = self._turns.get(address, (asyncio.Lock(), 0))
        self._turns[address] = (lock, waiting + 1)
        try:
            async with lock:
                passed = right()
                if not passed:
                    await asyncio.sleep(_WRONG_S)
                return passed
        finally:
            waiting = self._turns[address][1] - 1
            if waiting:
                self._turns[address] = (lock, waiting)
            else:
                del self._turns[address]


class Guard:
    """ASGI middleware.

    Args:
        app: what is guarded.
        hosts: see `settings.allowed_hosts`.
        token: empty: no login.
    """

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str], token: str) -> None:
        self._app = app
        self._hosts = hosts
        self._token = token
        self.turnstile = Turnstile()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have the app answer."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = await self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    async def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        # RFC 9110, 15.5.20: 421 is the answer to a request for another host.
        if _host_name(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("This page is not known by that name; see `hosts` in [page].\n", 421)
        if not self._token or scope["path"] in _OPEN or await self._is_known(scope, headers):
            return None
        if scope["path"] == "/":
            return RedirectResponse("/login", 303)
        return PlainTextResponse("Log in first.\n", 401)

    async def _is_known(self, scope: Scope, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return await self.turnstile.passes(scope, lambda: same(given.strip(), self._token))
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:
            return False
        return COOKIE in cookies and is_session(cookies[COOKIE].value, self._token)


def _host_name(host: str) -> str:
    if host.startswith("["):
        name, _, rest = host.partition("]")
        return f"{name}]".lower() if not rest or rest.startswith(":") else ""
    return host.partition(":")[0].lower()


def same(given: str, token: str) -> bool:
    """Whether they are the same, in a time that tells nothing of where they differ."""
    return hmac.compare_digest(given.encode(), token.encode())


def make_session(token: str, *, now_s: float | None = None) -> str:
    """What the login cookie holds: until when it is good, and proof that we said so. The token is not in it."""
    until = str(int((time.time() if now_s is None else now_s) + SESSION_S))
    return f"{until}.{_proof(until, token)}"


def is_session(value: str, token: str) -> bool:
    """Whether we made it, and it is still good."""
    until, _, proof = value.partition(".")
    return (
        hmac.compare_digest(proof.encode(), _proof(until, token).encode())
        and until.isdigit()
        and (time.time() < int(until))
    )


def _proof(until: str, token: str) -> str:
    return hmac.new(token.encode(), b"page session " + until.encode(), hashlib.sha256).hexdigest()
