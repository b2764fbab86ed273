"""The gateway's ASGI application: routes, error handling and security headers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from subtitle.aio import AsyncClient
from subtitle.errors import SubtitleError
from subtitled import log
from subtitled.http import edits, jobs, openai, player, whisper_asr_webservice
from subtitled.http import operate as operate_api
from subtitled.http.auth import AuthMiddleware, Role
from subtitled.http.errors import RequestError, error_response, to_request_error
from subtitled.http.forms import drain
from subtitled.http.gateway import Gateway
from subtitled.web import (
    actions,
    api_docs,
    assets,
    bulk,
    job_page,
    operate,
    overview,
    reasons,
    rendering,
    sign_in,
)
from subtitled.web.i18n import Translator, language_of
from subtitled.web.status_cache import StatusCache

DAEMON_TIMEOUT_S = 10.0
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
OTHER_POLICY = "default-src 'none'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
"""For subtitles, JSON and errors: a browser that renders them as a page runs nothing."""
_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # With `no-referrer`, Chromium sends `Origin: null` with the page's own forms, which AuthMiddleware rejects.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_API_PREFIXES = ("/api/", "/v1/")
_API_PATHS = frozenset({"/asr", "/detect-language", "/health"})
_PAGE_PREFIXES = ("/jobs/", "/static/", "/fragments/")
_PAGE_ROUTES = (
    Route("/", overview.show, methods=["GET"]),
    Route("/fragments/overview", overview.show_live, methods=["GET"]),
    Route("/jobs/{job}", job_page.show, methods=["GET"]),
    Route("/fragments/jobs/{job}", job_page.show_live, methods=["GET"]),
    Route("/fragments/editor", job_page.show_editor, methods=["GET"]),
    Route("/jobs/{job}/retry", actions.retry, methods=["POST"]),
    Route("/jobs/{job}/translate", actions.translate, methods=["POST"]),
    Route("/jobs/{job}/cancel", actions.cancel, methods=["POST"]),
    Route("/jobs/{job}/move", bulk.move, methods=["POST"]),
    Route("/jobs/{job}/dismiss", actions.dismiss, methods=["POST"]),
    Route("/dismiss-failed", actions.dismiss_all, methods=["POST"]),
    Route("/retry-failed", actions.retry_all, methods=["POST"]),
    Route("/operate", operate.show, methods=["GET"]),
    Route("/fragments/operate", operate.show_live, methods=["GET"]),
    Route("/operate", operate.change, methods=["POST"]),
    Route("/sign-in", sign_in.sign_in, methods=["GET", "POST"]),
    Route("/sign-out", sign_in.sign_out, methods=["POST"]),
    Route("/upload", actions.upload, methods=["POST"]),
    Route("/urls", actions.submit_url, methods=["POST"]),
    Route("/bulk", bulk.act, methods=["POST"]),
    Route("/bulk/matching", bulk.matching, methods=["GET"]),
    Route("/download", bulk.download, methods=["POST"]),
    Route("/static/{name}", assets.serve, methods=["GET"]),
    Route("/docs", api_docs.show, methods=["GET"]),
    Route("/health", overview.health, methods=["GET"]),
)
_PAGE_PATHS = frozenset(route.path for route in _PAGE_ROUTES if route.path not in _API_PATHS)
_log = log.get()


def build_app(
    endpoint: str,
    key: str,
    *,
    tokens: Mapping[bytes, Role],
    max_bytes: int,
    models: Iterable[str] = (),
    origins: Iterable[str] = (),
    on_ready: Callable[[], None] = lambda: None,
) -> ASGIApp:
    """Return the application for the daemon at `endpoint`; `tokens`: role by digest, `key` is a key file or "".

    `models` and `origins` are those of the configuration's `[http]`.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # A client belongs to one event loop: it is created in the server's.
        client = AsyncClient(endpoint, key, timeout_s=DAEMON_TIMEOUT_S)
        app.state.gateway = Gateway(client, max_bytes, models)
        app.state.status_cache = StatusCache(client)
        app.state.tokens = tokens
        on_ready()
        try:
            yield
        finally:
            await app.state.gateway.close()

    app = Starlette(
        routes=[
            *openai.routes(),
            *whisper_asr_webservice.routes(),
            *jobs.routes(),
            *operate_api.routes(),
            *player.routes(),
            *edits.routes(),
            *_PAGE_ROUTES,
        ],
        middleware=[Middleware(AuthMiddleware, tokens=tokens, origins=origins, respond=_respond)],
        exception_handlers=dict.fromkeys(
            (RequestError, SubtitleError, HTTPException, ClientDisconnect, Exception), _handle_error
        ),
        lifespan=lifespan,
    )
    return SecurityHeadersMiddleware(app)


class SecurityHeadersMiddleware:
    """ASGI middleware that adds security headers to every response, those of AuthMiddleware too."""

    def __init__(self, app: ASGIApp) -> None:
        """`app` is the application to wrap."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and its response with the headers."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                is_html = headers.get("content-type", "").startswith("text/html")
                headers.setdefault("Content-Security-Policy", PAGE_POLICY if is_html else OTHER_POLICY)
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


async def _handle_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)  # not sent
    if not isinstance(error, RequestError | SubtitleError | HTTPException):
        _log.error(log.REQUEST_FAILED, path=request.scope["path"], cause=repr(error))
    else:  # after an internal error Starlette does not let the body be read
        with suppress(RequestError, ClientDisconnect):
            await drain(request)
    response = _respond(request, to_request_error(error))
    if response.status_code == 405:
        response.headers["Allow"] = ", ".join(sorted(_allowed_methods(request)))  # RFC 9110, 15.5.6
    return response


def _respond(request: Request, error: RequestError) -> Response:
    # Not request.url, which cannot be parsed with an invalid Host.
    path = request.scope["path"]
    is_api = path in _API_PATHS or path.startswith(_API_PREFIXES)
    is_page = path in _PAGE_PATHS or path.startswith(_PAGE_PREFIXES)
    accepted = request.headers.get("accept", "")
    is_script = accepted.startswith("application/json")
    if (is_page and not is_script) or (not is_api and "text/html" in accepted):
        return rendering.error_page(request, error)
    t = Translator(language_of(request))
    text = reasons.translate(t, str(error))
    response = error_response(path, error, "" if text == str(error) else text)
    if error.status == 401 and request.headers.get("sec-fetch-mode", "navigate") != "navigate":
        # A script of a page whose session has expired: for Basic the browser would show its own form over the page.
        response.headers["WWW-Authenticate"] = 'Bearer realm="subtitled"'
    return response


def _allowed_methods(request: Request) -> set[str]:
    """Return the methods of all routes of a path."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    found = (route.methods or set() for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return set().union(*found)
