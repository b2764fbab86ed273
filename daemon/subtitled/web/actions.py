"""What the page's forms do: each does one thing to a job, then sends the browser to where it shows."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from subtitle.errors import ServerError
from subtitled.http import jobs
from subtitled.http.forms import drain
from subtitled.http.gateway import Gateway
from subtitled.http.jobs import MAX_LISTED
from subtitled.web.status_cache import StatusCache, patience


async def retry(request: Request) -> Response:
    """Try a failed job again."""
    gateway: Gateway = request.app.state.gateway
    await drain(request)
    async with patience():
        await gateway.client.retry(request.path_params["job"])
    return _back(request)


async def cancel(request: Request) -> Response:
    """End a job."""
    gateway: Gateway = request.app.state.gateway
    await drain(request)
    async with patience():
        await gateway.client.cancel(request.path_params["job"])
    return _back(request)


async def retry_all(request: Request) -> Response:
    """Try all failed jobs again whose files are still there, the newest first."""
    gateway: Gateway = request.app.state.gateway
    await drain(request)
    for job in await gateway.client.list(("failed",), limit=MAX_LISTED):
        # One whose file is gone, or whose last files are being written, is not what the others wait for.
        with suppress(ServerError):
            await gateway.client.retry(job.id)
    pulse: StatusCache = request.app.state.pulse
    pulse.expire()
    return RedirectResponse("/", 303)


async def upload(request: Request) -> Response:
    """Take a file with the options beside it, from a browser that runs no script."""
    job = await jobs.take_form(request)
    return RedirectResponse(f"/jobs/{job}", 303)


def _back(request: Request) -> Response:
    """Send the browser back to the page that has the form; the guard has seen that it is one of ours."""
    pulse: StatusCache = request.app.state.pulse
    pulse.expire()
    from_page = urlsplit(request.headers.get("referer", ""))
    if from_page.netloc != request.headers.get("host") or not from_page.path.startswith("/"):
        return RedirectResponse(f"/jobs/{request.path_params['job']}", 303)
    # Two slashes would be another host.
    path = "/" + from_page.path.lstrip("/")
    return RedirectResponse(f"{path}?{from_page.query}" if from_page.query else path, 303)
