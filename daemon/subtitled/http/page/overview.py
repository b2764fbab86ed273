"""The overview: whether all is well, what is done now, all jobs."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from subtitled.http.gateway import Gateway
from subtitled.http.page import frame
from subtitled.http.page.pulse import Pulse, patience

LISTED = 50
"""Jobs on one page."""


async def show(request: Request) -> Response:
    """Answer with the page."""
    return frame.page(request, "overview.html", **await _facts(request))


async def show_live(request: Request) -> Response:
    """Answer with the part of it that changes."""
    return frame.fragment(request, "overview_live.html", **await _facts(request))


async def _facts(request: Request) -> dict[str, Any]:
    pulse: Pulse = request.app.state.pulse
    gateway: Gateway = request.app.state.gateway
    look = await pulse.look()
    async with patience():
        jobs = await gateway.client.list(limit=LISTED)
    return {"look": look, "jobs": jobs}
