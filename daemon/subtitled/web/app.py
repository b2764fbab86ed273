"""The gateway as an ASGI application: its interfaces behind one guard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from subtitle.aio import AsyncClient
from subtitle.errors import SubtitleError
from subtitled import log
from subtitled.http import asr, jobs, openai, player
from subtitled.http.auth import AuthMiddleware
from subtitled.http.errors import RequestError, answer, as_request_error
from subtitled.http.forms import drain
from subtitled.http.gateway import Gateway
from subtitled.web import rendering, routes
from subtitled.web.security_headers import SecurityHeaders
from subtitled.web.status_cache import StatusCache

DAEMON_TIMEOUT_S = 10.0
"""How long the daemon may take for an answer."""
_log = log.get()


def build(
    endpoint: str,
    key: str,
    *,
    tokens: frozenset[bytes],
    max_bytes: int,
    on_ready: Callable[[], None] = lambda: None,
) -> ASGIApp:
    """Return the application for the daemon at `endpoint`; `tokens` are digests, `key` is a key file or ""."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # A client belongs to one event loop: it is made in the server's.
        client = AsyncClient(endpoint, key, timeout_s=DAEMON_TIMEOUT_S)
        app.state.gateway, app.state.pulse = Gateway(client, max_bytes), StatusCache(client)
        on_ready()
        try:
            yield
        finally:
            await app.state.gateway.close()

    app = Starlette(
        routes=[*openai.routes(), *asr.routes(), *jobs.routes(), *player.routes(), *routes.routes()],
        middleware=[Middleware(AuthMiddleware, tokens=tokens, answer=_answer)],
        exception_handlers=dict.fromkeys(
            (RequestError, SubtitleError, HTTPException, ClientDisconnect, Exception), _refuse
        ),
        lifespan=lifespan,
    )
    return SecurityHeaders(app)


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)  # nobody reads it
    if not isinstance(error, RequestError | SubtitleError | HTTPException):
        _log.error(log.REQUEST_FAILED, path=request.url.path, cause=repr(error))
    else:  # after a fault of ours Starlette gives no way to read on
        with suppress(RequestError, ClientDisconnect):
            await drain(request)
    response = _answer(request, as_request_error(error))
    if response.status_code == 405:
        response.headers["Allow"] = ", ".join(sorted(_methods(request)))  # RFC 9110, 15.5.6
    return response


def _answer(request: Request, error: RequestError) -> Response:
    if routes.is_page(request.url.path):
        return rendering.fault(request, error)
    return answer(request.url.path, error)


def _methods(request: Request) -> set[str]:
    """Return the methods of a path: each of its routes knows its own alone."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    found = (route.methods or set() for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return set().union(*found)
