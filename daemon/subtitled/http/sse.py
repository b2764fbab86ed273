"""Server-sent events (the HTML standard, "Server-sent events")."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
from starlette.responses import StreamingResponse

KEEPALIVE_S = 15.0
"""A comment is sent after this long without an event, to keep proxies from closing the connection."""


def event(data: object, *, name: str = "", seq: int | None = None) -> bytes:
    """Return one event; `data` is sent as is if it is a string, else as JSON."""
    text = data if isinstance(data, str) else msgspec.json.encode(data).decode()
    lines = [f"event: {name}"] if name else []
    lines += [f"id: {seq}"] if seq is not None else []
    return "\n".join([*lines, f"data: {text}", "", ""]).encode()


def event_stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    """Return a response that sends `events` as they arrive."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_with_keepalive(events), media_type="text/event-stream", headers=headers)


async def _with_keepalive(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    pending = asyncio.ensure_future(_next(events))
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=KEEPALIVE_S)
            if not done:
                yield b": keep-alive\n\n"
                continue
            if not (current := pending.result()):
                return
            yield current
            pending = asyncio.ensure_future(_next(events))
    finally:
        pending.cancel()


async def _next(events: AsyncIterator[bytes]) -> bytes:
    return await anext(events, b"")
