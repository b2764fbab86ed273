"""Authentication, cross-site protection, CORS and request limits of the gateway."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal
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
"""Maximum requests of one client, so that it cannot use all of MAX_REQUESTS, for example with event streams."""
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_ALLOWED_SITES = frozenset({"same-origin", "none"})
"""Sec-Fetch-Site (Fetch Metadata, W3C) of the gateway's own pages, and of a typed address."""
_PUBLIC_PATHS = frozenset({"/health"})
_EXPOSED_HEADERS = "Accept-Ranges, Content-Disposition, Content-Range, ETag, Location, Retry-After"
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


Role = Literal["admin", "user"]
"""What a token allows: a user works with files, an admin operates the server as well."""
SIGN_IN, SIGN_OUT = "/sign-in", "/sign-out"
SESSION_COOKIE = "subtitled_session"
SESSION_S = 30 * 24 * 3600


def read_tokens(path: str) -> dict[bytes, Role]:
    """Return role by digest of the tokens in a file: `TOKEN` or `TOKEN user` a line, `#` starts a comment.

    Raises SubtitledError.
    """
    try:
        text = Path(path).read_text("utf-8")
        mode = os.stat(path).st_mode  # noqa: PTH116 - follows links, as the read above does
    except (OSError, UnicodeDecodeError) as error:
        raise SubtitledError(f"http.token_file {path}: cannot be read: {error}") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise SubtitledError(f"http.token_file {path}: readable by other users; run: chmod o= {path}")
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    tokens = dict(_token_and_role(line) for line in lines)
    if not tokens:
        raise SubtitledError(f"http.token_file {path}: contains no token; create one: openssl rand -hex 32")
    if any(len(token) < MIN_TOKEN_CHARS for token in tokens):
        raise SubtitledError(
            f"http.token_file {path}: a token with fewer than {MIN_TOKEN_CHARS} characters can be guessed; "
            "create one: openssl rand -hex 32"
        )
    return {_digest(token): role for token, role in tokens.items()}


def _token_and_role(line: str) -> tuple[str, Role]:
    token, _, role = line.rpartition(" ")
    if token and role == "user":
        return token.strip(), "user"
    return (token.strip() if token and role == "admin" else line), "admin"


def role_of(request: Request) -> Role:
    """Return the role of a request that AuthMiddleware has accepted."""
    role: Role = request.scope.get("subtitled.role", "user")
    return role


def require_admin(request: Request) -> None:
    """Raise RequestError unless the request is an admin's."""
    if role_of(request) != "admin":
        raise RequestError(
            403, "forbidden", 'operating the server needs the role "admin"; this token has the role "user"'
        )


def new_session(token: str, tokens: Mapping[bytes, Role]) -> str | None:
    """Return the value of a session's cookie, which expires after SESSION_S; None for an unknown token.

    It contains no secret that helps to guess the token, and is invalid as soon as the token is removed from the file.
    """
    digest = _digest(token)
    if digest not in tokens:
        return None
    end = str(int(time.time()) + SESSION_S)
    return f"{_session_id(digest)}.{end}.{_signature(digest, end)}"


def _session_role(cookie: str, tokens: Mapping[bytes, Role]) -> Role | None:
    """Return the role of a session; None if it is invalid or has expired."""
    parts = cookie.split(".")
    if len(parts) != 3 or not cookie.isascii():
        return None
    session, end, signature = parts
    if not end.isdigit() or len(end) > 12 or int(end) < time.time():
        return None
    for digest, role in tokens.items():
        is_signed = hmac.compare_digest(signature, _signature(digest, end))
        if is_signed and hmac.compare_digest(session, _session_id(digest)):
            return role
    return None


def _session_id(digest: bytes) -> str:
    return hmac.new(digest, b"subtitled session id", "sha256").hexdigest()[:16]


def _signature(digest: bytes, end: str) -> str:
    return hmac.new(digest, b"subtitled session until " + end.encode(), "sha256").hexdigest()


class AuthMiddleware:
    """ASGI middleware: authentication, protection against cross-site requests, CORS, and limits of concurrent requests.

    Without tokens the gateway listens on loopback only, and the Host header must name this machine: this stops DNS
    rebinding. A page of another site needs an allowed Origin. A Bearer token replaces that check, because a browser
    never adds one automatically, unlike a Basic password.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: Mapping[bytes, Role],
        origins: Iterable[str],
        respond: Callable[[Request, RequestError], Response],
    ) -> None:
        """`tokens`: role by digest; without any, no token is required, and everybody is an admin. `respond` renders an error."""
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
        path = request.scope["path"]
        if path in _PUBLIC_PATHS:
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
            (None if self._is_open_path(path) else self._check_token(request, hostname.hostname or ""))
            or self._check_origin(request, host)
            or self._check_limits(client_of(request.scope))
        )

    def _is_open_path(self, path: str) -> bool:
        """Return whether a path needs no token: the form to sign in, and the page's own files, which are no secret."""
        return bool(self._tokens) and (path in {SIGN_IN, SIGN_OUT} or path.startswith("/static/"))

    def _check_token(self, request: Request, hostname: str) -> RequestError | None:
        if not self._tokens:
            if hostname in _LOOPBACK_HOSTS:
                request.scope["subtitled.role"] = "admin"
                return None
            message = f"Host {hostname[:100]!r} is not allowed without http.token_file (127.0.0.1, localhost)"
            return RequestError(403, "forbidden", message)
        token = _token(request.headers.get("authorization", ""))
        role = None if token is None else self._tokens.get(_digest(token))
        if token is None and (role := _session_role(request.cookies.get(SESSION_COOKIE, ""), self._tokens)):
            request.scope["subtitled.session"] = True
        if role is not None:
            request.scope["subtitled.role"] = role
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
        is_session = request.scope.get("subtitled.session", False)
        if (
            is_session
            and request.method not in _SAFE_METHODS
            and origin is None
            and "sec-fetch-site" not in headers
        ):
            # A browser adds the cookie to the forms of other sites if it is too old to name their origin.
            return RequestError(403, "forbidden", "no Origin; send a token as `Authorization: Bearer TOKEN`")
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
