"""Who may ask the gateway, and how much at once."""

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
"""Requests under way at once; each may hold 2 MiB and a connection to the daemon."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""What changes nothing here."""
_OURS = frozenset({"same-origin", "none"})
"""Sec-Fetch-Site (Fetch Metadata, W3C): whose page the request comes from; none: somebody typed it, or it is no browser."""
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


def read_tokens(path: str) -> frozenset[bytes]:
    """Return the digests of the tokens in a file, one a line, `#` before a comment; raises SubtitledError."""
    try:
        text = Path(path).read_text("utf-8")
        mode = os.stat(path).st_mode  # noqa: PTH116 - what was read, links followed
    except (OSError, UnicodeDecodeError) as error:
        raise SubtitledError(f"http.token_file {path}: cannot be read: {error}") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise SubtitledError(f"http.token_file {path}: others may read it; chmod o= {path}")
    tokens = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if not tokens:
        raise SubtitledError(f"http.token_file {path}: holds no token; write one: openssl rand -hex 32")
    if any(len(token) < MIN_TOKEN_CHARS for token in tokens):
        raise SubtitledError(
            f"http.token_file {path}: a token of less than {MIN_TOKEN_CHARS} characters can be guessed; "
            "make one: openssl rand -hex 32"
        )
    return frozenset(_digest(token) for token in tokens)


class AuthMiddleware:
    """An ASGI application around another: turns away who shows no token, or comes by a page of somebody else's.

    Without tokens the gateway is on loopback, and a request must be meant for it: a browser would else carry requests here
    from any page that is open in it (the page's Origin tells), or from a name that was made to point here (the Host tells).
    """

    def __init__(
        self, app: ASGIApp, tokens: frozenset[bytes], answer: Callable[[Request, RequestError], Response]
    ) -> None:
        """`tokens`: their digests; empty: none is asked for. `answer` puts a refusal in the words of who is asked."""
        self._app = app
        self._answer = answer
        self._tokens = tokens
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is turned away, hand on any other."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        refusal = self._refusal(request)
        if refusal is not None:
            await self._answer(request, refusal)(scope, receive, send)
            return
        self._under_way += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way -= 1

    def _refusal(self, request: Request) -> RequestError | None:
        headers = request.headers
        host = headers.get("host", "")
        if self._tokens:
            shown = _shown(headers.get("authorization", ""))
            if shown is None or _digest(shown) not in self._tokens:
                what = "no token" if shown is None else "a token that is not"
                return RequestError(
                    401,
                    "invalid_api_key",
                    f"{what} in http.token_file; send `Authorization: Bearer TOKEN` (an OpenAI client's api_key), or TOKEN as "
                    "the password of the address: http://user:TOKEN@host/",
                )
        elif (urlsplit(f"//{host}").hostname or "") not in _HERE:
            return RequestError(
                403,
                "forbidden",
                f"Host {host[:100]!r}: without http.token_file only this machine's own names are served: 127.0.0.1, localhost",
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return RequestError(
                403, "forbidden", f"Origin {origin[:100]!r}: pages of other sites may not ask here"
            )
        site = headers.get("sec-fetch-site", "none")
        if request.method not in _SAFE and site not in _OURS:
            return RequestError(
                403,
                "forbidden",
                f"Sec-Fetch-Site {site[:20]!r}: pages of other sites may not change anything here",
            )
        if self._under_way >= MAX_REQUESTS:
            return RequestError(
                503,
                "overloaded",
                f"{self._under_way} requests are under way, as many as are taken; try again later",
            )
        return None


def _digest(token: str) -> bytes:
    """Return what is compared instead of a token: how long that takes tells nothing of it."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _shown(authorization: str) -> str | None:
    """Return the token of an Authorization header: a Bearer's, or the password of a Basic one."""
    scheme, _, rest = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return rest.strip()
        case "basic":
            try:
                return base64.b64decode(rest, validate=True).decode("utf-8").partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return None
        case _:
            return None
