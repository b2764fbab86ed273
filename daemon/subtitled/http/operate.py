"""Operating the server over HTTP: queue, log level, models, the log's last lines, disks and retention; for admins."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from subtitle.messages import LogLevelName, OperateInfo
from subtitled.http.auth import require_admin
from subtitled.http.errors import RequestError, not_allowed
from subtitled.http.forms import read_body
from subtitled.http.gateway import Gateway
from subtitled.http.response_formats import json_response, payload

MAX_LINES = 1000
MAX_TEXT_CHARS = 200
MAX_BODY_BYTES = 4096
LEVELS: tuple[LogLevelName, ...] = ("debug", "info", "warning", "error")


class OperateRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may change while the server runs; null: unchanged."""

    is_paused: bool | None = None
    """Pause or resume the queue."""
    log_level: LogLevelName | None = None
    load_model: str | None = None
    """Name of a model that workers load and keep."""
    workers: Annotated[int, Meta(ge=1, le=4096)] = 1
    """How many keep the model of `load_model`."""
    unload_model: str | None = None
    """Name of a model that all workers unload as soon as they do not use it."""


def routes() -> list[Route]:
    """Return the interface's routes."""
    return [
        Route("/api/operate", _show, methods=["GET"]),
        Route("/api/operate", _change, methods=["POST"]),
    ]


async def state(request: Request) -> OperateInfo:
    """Return the state of the server with the lines that the query requests; raises RequestError."""
    require_admin(request)
    gateway: Gateway = request.app.state.gateway
    query = request.query_params
    lines, level = query.get("log_lines", "0"), query.get("log_level", "debug")
    if not (lines.isascii() and lines.isdigit() and len(lines) < 5 and int(lines) <= MAX_LINES):
        raise not_allowed("log_lines", lines, f"0 to {MAX_LINES}")
    found = next((name for name in LEVELS if name == level), None)
    if found is None:
        raise not_allowed("log_level", level, ", ".join(LEVELS))
    text = query.get("log_text", "")
    if len(text) > MAX_TEXT_CHARS:
        raise not_allowed("log_text", text, f"up to {MAX_TEXT_CHARS} characters")
    return await gateway.client.operate(log_lines=int(lines), log_level=found, log_text=text)


async def apply(request: Request, changes: OperateRequest) -> OperateInfo:
    """Change what is given, and return the state afterwards; raises RequestError, and then nothing is changed."""
    require_admin(request)
    gateway: Gateway = request.app.state.gateway
    if changes.load_model is not None and changes.unload_model is not None:
        raise RequestError(
            400, "bad_format", "send either `load_model` or `unload_model`", param="unload_model"
        )
    for name, load in ((changes.load_model, True), (changes.unload_model, False)):
        if name is not None and not 0 < len(name) <= MAX_TEXT_CHARS:
            raise not_allowed(
                "load_model" if load else "unload_model", name, f"1 to {MAX_TEXT_CHARS} characters"
            )
    # The daemon may refuse a model, but neither a log level nor a pause.
    if changes.load_model is not None:
        await gateway.client.load_model(changes.load_model, changes.workers)
    if changes.unload_model is not None:
        await gateway.client.unload_model(changes.unload_model)
    if changes.log_level is not None:
        await gateway.client.set_log_level(changes.log_level)
    return await gateway.client.operate(is_paused=changes.is_paused)


async def _show(request: Request) -> Response:
    return json_response(payload(await state(request)))


async def _change(request: Request) -> Response:
    require_admin(request)
    content = await read_body(request, MAX_BODY_BYTES, "body")
    try:
        changes = msgspec.json.decode(content, type=OperateRequest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(400, "bad_format", f"the body is not valid: {error}") from None
    return json_response(payload(await apply(request, changes)))
