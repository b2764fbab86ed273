"""Authentication, same-origin checks and the request limit of the gateway."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from subtitled.errors import SubtitledError
from subtitled.http.errors import RequestError

MIN_TOKEN_CHARS = 16
MAX_REQUESTS = 256
"""Concurrent requests; each may hold 2 MiB and a connection to the daemon."""
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_ALLOWED_SITES = frozenset({"same-origin", "none"})
"""Sec-Fetch-Site (Fetch Metadata, W3C) of the gateway's own pages, and of a typed address."""
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def read_tokens(path: str) -> frozenset[bytes]:
    """Return the digests of the tokens in a file: one token a line, `#` starts a comment; raises SubtitledError."""
    try:
        text = Path(path).read_text("utf-8")
        mode = os.stat(path).st_mode  # noqa: PTH116 - follows links, as the read above does
    except (OSError, UnicodeDecodeError) as error:
        raise SubtitledError(f"http.token_file {path}: cannot be read: {error}") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise SubtitledError(f"http.token_file {path}: readable by other users; run: chmod o= {path}")
    tokens = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if not tokens:
        raise SubtitledError(f"http.token_file {path}: contains no token; create one: openssl rand -hex 32")
    if any(len(token) < MIN_TOKEN_CHARS for token in tokens):
        raise SubtitledError(
            f"http.token_file {path}: a token with fewer than {MIN_TOKEN_CHARS} characters can be guessed; "
            "create one: openssl rand -hex 32"
        )
    return frozenset(_digest(token) for token in tokens)


class AuthMiddleware:
    """ASGI middleware that rejects requests without a valid token and requests of other sites' pages.

    Without tokens the gateway listens on loopback only, and the Host header must name this machine: this stops DNS
    rebinding. The Origin header stops requests that a browser sends for a page of another site.
    """

    def __init__(
        self, app: ASGIApp, tokens: frozenset[bytes], respond: Callable[[Request, RequestError], Response]
    ) -> None:
        """`tokens` are digests; without any, no token is required. `respond` renders an error."""
        self._app = app
        self._respond = respond
        self._tokens = tokens
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject the request or pass it to the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        error = self._check(request)
        if error is not None:
            await self._respond(request, error)(scope, receive, send)
            return
        self._active += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._active -= 1

    def _check(self, request: Request) -> RequestError | None:
        headers = request.headers
        host = headers.get("host", "")
        if self._tokens:
            token = _token(headers.get("authorization", ""))
            if token is None or _digest(token) not in self._tokens:
                what = "no token" if token is None else "unknown token"
                return RequestError(
                    401,
                    "invalid_api_key",
                    f"{what}; send a token of http.token_file as `Authorization: Bearer TOKEN` (an OpenAI client's "
                    "api_key), or as the password in the URL: http://user:TOKEN@host/",
                )
        elif (urlsplit(f"//{host}").hostname or "") not in _LOOPBACK_HOSTS:
            return RequestError(
                403,
                "forbidden",
                f"Host {host[:100]!r} is not allowed without http.token_file (127.0.0.1, localhost)",
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return RequestError(403, "forbidden", f"Origin {origin[:100]!r} is not allowed")
        site = headers.get("sec-fetch-site", "none")
        if request.method not in _SAFE_METHODS and site not in _ALLOWED_SITES:
            return RequestError(403, "forbidden", f"Sec-Fetch-Site {site[:20]!r} is not allowed")
        if self._active >= MAX_REQUESTS:
            return RequestError(
                503, "overloaded", f"too many concurrent requests ({MAX_REQUESTS}); try again later"
            )
        return None


def _digest(token: str) -> bytes:
    """Return a digest to compare in place of the token, against timing attacks."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _token(authorization: str) -> str | None:
    """Return the token of an Authorization header: a Bearer token or a Basic password."""
    scheme, _, credentials = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return credentials.strip()
        case "basic":
            try:
                return base64.b64decode(credentials, validate=True).decode("utf-8").partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return None
        case _:
            return None
