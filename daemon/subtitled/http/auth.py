"""Authentication, cross-site protection, CORS and request limits of the gateway."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from subtitled.errors import SubtitledError
from subtitled.http.errors import RequestError

MIN_TOKEN_CHARS = 16
MAX_REQUESTS = 256
"""Concurrent requests; each may hold 2 MiB and a connection to the daemon."""
MAX_CLIENT_REQUESTS = 192
"""Of one client, so that it cannot use all of MAX_REQUESTS, for example with event streams."""
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_ALLOWED_SITES = frozenset({"same-origin", "none"})
"""Sec-Fetch-Site (Fetch Metadata, W3C) of the gateway's own pages, and of a typed address."""
_PUBLIC_PATHS = frozenset({"/health"})
_EXPOSED_HEADERS = "Accept-Ranges, Content-Disposition, Content-Range, ETag, Location, Retry-After"
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
    """ASGI middleware: authentication, protection against cross-site requests, CORS, and limits of concurrent requests.

    Without tokens the gateway listens on loopback only, and the Host header must name this machine: this stops DNS
    rebinding. A page of another site needs an allowed Origin. A Bearer token replaces that check, because a browser
    never adds one automatically, unlike a Basic password.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: frozenset[bytes],
        origins: Iterable[str],
        respond: Callable[[Request, RequestError], Response],
    ) -> None:
        """`tokens` are digests; without any, no token is required. `respond` renders an error."""
        self._app = app
        self._respond = respond
        self._tokens = tokens
        self._origins = frozenset(origins)
        self._active: Counter[str] = Counter()
        """Running requests by client."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject the request, answer a preflight, or pass the request to the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        if self._is_allowed_origin(request):
            send = _with_cors_headers(send, request.headers["origin"])
        error = self._check(request)
        if error is not None:
            await self._respond(request, error)(scope, receive, send)
            return
        if _is_preflight(request):
            await _preflight_response(request)(scope, receive, send)
            return
        client = client_of(scope)
        self._active[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._active[client] -= 1
            if not self._active[client]:
                del self._active[client]

    def _check(self, request: Request) -> RequestError | None:
        if request.scope["path"] in _PUBLIC_PATHS:
            return None
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        hostname = _split(f"//{host}")
        if hostname is None:
            return RequestError(400, "bad_request", f"Host {host[:100]!r} is not a host name")
        if origin is not None and _split(origin) is None:
            return RequestError(400, "bad_request", f"Origin {origin[:100]!r} is not an origin")
        if _is_preflight(request):
            return None if self._is_allowed_origin(request) else _forbidden_origin(origin)
        return (
            self._check_token(request, hostname.hostname or "")
            or self._check_origin(request, host)
            or self._check_limits(client_of(request.scope))
        )

    def _check_token(self, request: Request, hostname: str) -> RequestError | None:
        if not self._tokens:
            if hostname in _LOOPBACK_HOSTS:
                return None
            message = f"Host {hostname[:100]!r} is not allowed without http.token_file (127.0.0.1, localhost)"
            return RequestError(403, "forbidden", message)
        token = _token(request.headers.get("authorization", ""))
        if token is not None and _digest(token) in self._tokens:
            return None
        return RequestError(
            401,
            "invalid_api_key",
            f"{'no token' if token is None else 'unknown token'}; send a token of http.token_file as `Authorization: Bearer "
            "TOKEN` (an OpenAI client's api_key), or as the password in the URL: http://user:TOKEN@host/",
        )

    def _check_origin(self, request: Request, host: str) -> RequestError | None:
        headers = request.headers
        is_bearer = bool(self._tokens) and headers.get("authorization", "").lower().startswith("bearer ")
        if is_bearer or self._is_allowed_origin(request):
            return None
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return _forbidden_origin(origin)
        site = headers.get("sec-fetch-site", "none")
        if request.method not in _SAFE_METHODS and site not in _ALLOWED_SITES:
            return RequestError(403, "forbidden", f"Sec-Fetch-Site {site[:20]!r} is not allowed")
        return None

    def _check_limits(self, client: str) -> RequestError | None:
        limits = (
            (self._active.total(), MAX_REQUESTS, "of all clients"),
            (self._active[client], MAX_CLIENT_REQUESTS, "of one client"),
        )
        for active, limit, whose in limits:
            if active >= limit:
                message = f"too many concurrent requests {whose} ({limit}); try again later"
                return RequestError(503, "overloaded", message)
        return None

    def _is_allowed_origin(self, request: Request) -> bool:
        origin = request.headers.get("origin")
        return origin is not None and (origin in self._origins or "*" in self._origins)


def client_of(scope: Scope) -> str:
    """Return the address of a client, by which limits are counted; of IPv6, its network of 64 bits."""
    host = scope["client"][0] if scope.get("client") else ""
    if ":" not in host:
        return host
    try:
        return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))
    except ValueError:
        return host


def _is_preflight(request: Request) -> bool:
    return (
        request.method == "OPTIONS"
        and "origin" in request.headers
        and "access-control-request-method" in request.headers
    )


def _preflight_response(request: Request) -> Response:
    """Return the response to a CORS preflight (Fetch standard, 3.2) of an allowed origin."""
    headers = {
        "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
        "Access-Control-Allow-Headers": request.headers.get("access-control-request-headers", "*")[:1000],
        "Access-Control-Max-Age": "600",
    }
    if request.headers.get("access-control-request-private-network") == "true":
        headers["Access-Control-Allow-Private-Network"] = "true"
    return Response(status_code=204, headers=headers)


def _with_cors_headers(send: Send, origin: str) -> Send:
    """Return `send` with the headers that let pages of `origin` read the response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
            headers.add_vary_header("Origin")
        await send(message)

    return send_with_headers


def _forbidden_origin(origin: str | None) -> RequestError:
    return RequestError(
        403, "forbidden", f"Origin {(origin or '')[:100]!r} is not allowed; add it to http.origins"
    )


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:
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
