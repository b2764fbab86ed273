"""The error page for an internal error of the gateway."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from subtitled.web.app import build_app


def test_an_internal_error_gets_an_error_page() -> None:
    """Without its lifespan the application has no daemon to ask: the page breaks as it would by any slip of ours."""
    app = build_app("ipc:///nowhere", "", tokens={}, max_bytes=1)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "scheme": "http",
        "http_version": "1.1",
        "headers": [(b"host", b"127.0.0.1:8600")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8600),
    }
    with suppress(AttributeError):  # Starlette lets the server's log have it too
        asyncio.run(_run(app, scope, receive, send))
    assert sent[0]["status"] == 500
    assert dict(sent[0]["headers"])[b"content-type"].startswith(b"text/html")
    assert b"<main" in b"".join(message.get("body", b"") for message in sent)


async def _run(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)
