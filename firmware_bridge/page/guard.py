"""What stands before every request: the right host, a login where one is needed, headers that browsers obey."""

from __future__ import annotations

import hashlib
import hmac
import time
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "cxr-edge"
SESSION_S = 12 * 3600
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

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        # RFC 9110, 15.5.20: 421 is the answer to a request for another host.
        if _host_name(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("This page is not known by that name; see `hosts` in [page].\n", 421)
        if not self._token or scope["path"] in _OPEN or self._is_known(headers):
            return None
        if scope["path"] == "/":
            return RedirectResponse("/login", 303)
        return PlainTextResponse("Log in first.\n", 401)

    def _is_known(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and same(given.strip(), self._token):
            return True
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:
            return False
        return COOKIE in cookies and is_session(cookies[COOKIE].value, self._token)


def _host_name(host: str) -> str:
    if host.startswith("["):
        return (host.partition("]")[0] + "]").lower()
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
