"""Server-sent events (the HTML standard, "Server-sent events")."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
from starlette.responses import StreamingResponse

ALIVE_S = 15.0
"""A comment goes out after so long without an event, so that no proxy takes the connection for dead."""


def event(data: object, *, name: str = "", seq: int | None = None) -> bytes:
    """Return one event: `data` as JSON, or as it is where it is a text."""
    text = data if isinstance(data, str) else msgspec.json.encode(data).decode()
    lines = [f"event: {name}"] if name else []
    lines += [f"id: {seq}"] if seq is not None else []
    return "\n".join([*lines, f"data: {text}", "", ""]).encode()


def answer(events: AsyncIterator[bytes]) -> StreamingResponse:
    """Return the answer that consists of `events`, as they come."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_with_signs_of_life(events), media_type="text/event-stream", headers=headers)


async def _with_signs_of_life(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    coming = asyncio.ensure_future(_next(events))
    try:
        while True:
            found, _ = await asyncio.wait({coming}, timeout=ALIVE_S)
            if not found:
                yield b": still here\n\n"
                continue
            if not (one := coming.result()):
                return
            yield one
            coming = asyncio.ensure_future(_next(events))
    finally:
        coming.cancel()


async def _next(events: AsyncIterator[bytes]) -> bytes:
    return await anext(events, b"")
