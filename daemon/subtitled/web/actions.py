"""POST handlers of the page's forms; each redirects to the page that shows the result."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from subtitle.errors import ServerError
from subtitled.http import jobs
from subtitled.http.errors import not_allowed
from subtitled.http.forms import drain, read_form
from subtitled.http.gateway import Gateway
from subtitled.http.jobs import MAX_LISTED
from subtitled.web.status_cache import MAX_FAILED, StatusCache, daemon_timeout
from subtitled.web.view_models import failed_ms, recently_failed

MAX_FORM_BYTES = 65_536


async def retry(request: Request) -> Response:
    """Retry a failed job."""
    gateway: Gateway = request.app.state.gateway
    return await _send_for_job(request, gateway.client.retry)


async def cancel(request: Request) -> Response:
    """Cancel a job."""
    gateway: Gateway = request.app.state.gateway
    return await _send_for_job(request, gateway.client.cancel)


async def translate(request: Request) -> Response:
    """Translate a job's subtitles to the languages of a form."""
    gateway: Gateway = request.app.state.gateway
    fields = await read_form(request, MAX_FORM_BYTES)
    languages = jobs.list_of(fields.get("to", ()))
    async with daemon_timeout():
        await gateway.client.translate(
            request.path_params["job"], languages, is_retry=fields.get("is_retry") == ["true"]
        )
    return redirect_back(request)


async def retry_all(request: Request) -> Response:
    """Retry all failed jobs that can be retried, the newest first."""
    gateway: Gateway = request.app.state.gateway
    cache: StatusCache = request.app.state.status_cache
    await drain(request)
    for job in await gateway.client.list(("failed",), limit=MAX_LISTED):
        # Skip jobs whose file is missing or whose outputs are still being written.
        with suppress(ServerError):
            await gateway.client.retry(job.id)
    cache.invalidate()
    return RedirectResponse("/", 303)


async def dismiss(request: Request) -> Response:
    """Dismiss the failure of a job."""
    gateway: Gateway = request.app.state.gateway
    return await _send_for_job(request, gateway.client.dismiss)


async def dismiss_all(request: Request) -> Response:
    """Dismiss the failures that the overview counts, up to the newest one that it showed: `until`, in milliseconds."""
    gateway: Gateway = request.app.state.gateway
    cache: StatusCache = request.app.state.status_cache
    fields = await read_form(request, MAX_FORM_BYTES)
    until = fields.get("until", [""])[-1]
    if not re.fullmatch("[0-9]{1,16}", until):
        raise not_allowed("until", until, "a time in milliseconds")
    failed = await gateway.client.list(("failed",), limit=MAX_FAILED)
    for job in recently_failed(failed, time.time() * 1000):
        if failed_ms(job) <= int(until):
            with suppress(ServerError):  # retried or deleted meanwhile
                await gateway.retry_while_busy(gateway.client.dismiss, job.id)
    cache.invalidate()
    return RedirectResponse("/", 303)


async def upload(request: Request) -> Response:
    """Accept one file with its options, from a browser without scripts."""
    job = await jobs.submit_form(request)
    return RedirectResponse(f"/jobs/{job}", 303)


async def submit_url(request: Request) -> Response:
    """Accept the address of a file, with the options of the upload form."""
    job = await jobs.submit_url(request)
    return RedirectResponse(f"/jobs/{job}", 303)


async def _send_for_job(request: Request, send: Callable[[str], Awaitable[object]]) -> Response:
    """Send a request about the job of a form without fields."""
    await drain(request)
    async with daemon_timeout():
        await send(request.path_params["job"])
    return redirect_back(request)


def redirect_back(request: Request) -> Response:
    """Redirect to the page that sent the form; AuthMiddleware has checked that it is one of the gateway's."""
    cache: StatusCache = request.app.state.status_cache
    cache.invalidate()
    try:
        referer = urlsplit(request.headers.get("referer", ""))
    except ValueError:
        referer = urlsplit("")
    if referer.netloc != request.headers.get("host") or not referer.path.startswith("/"):
        job = request.path_params.get("job")
        return RedirectResponse(f"/jobs/{job}" if job else "/", 303)
    # A path that begins with two slashes would name another host.
    path = "/" + referer.path.lstrip("/")
    return RedirectResponse(f"{path}?{referer.query}" if referer.query else path, 303)
