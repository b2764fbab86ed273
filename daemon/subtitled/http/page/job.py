"""One job: its facts and its history."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from subtitle.progress import progress_of
from subtitled.http.gateway import Gateway
from subtitled.http.page import frame
from subtitled.http.page.pulse import patience


async def show(request: Request) -> Response:
    """Answer with the page."""
    gateway: Gateway = request.app.state.gateway
    async with patience():
        job = await gateway.client.status(request.path_params["job"])
    return frame.page(request, "job.html", job=job, progress=progress_of(job))
