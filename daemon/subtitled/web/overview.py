"""The overview page: health, summary figures, workers and jobs."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlencode

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from subtitle.errors import SubtitleError
from subtitle.eta import estimate
from subtitle.messages import JobFacts
from subtitled.http.errors import RequestError
from subtitled.http.gateway import Gateway
from subtitled.web import rendering
from subtitled.web.i18n import Translator, language_choices, language_of
from subtitled.web.status_cache import (
    MAX_FAILED,
    PAGE_SIZE,
    RUNNING,
    StatusCache,
    StatusSnapshot,
    daemon_timeout,
)
from subtitled.web.view_models import health_summary, job_row, name_of, recently_failed, worker_row

MAX_FAILURES_SHOWN = 5
MAX_QUERY_CHARS = 200
_GROUPS = {"running": RUNNING, "done": ("done",), "failed": ("failed",)}


class ListFilter(Struct, frozen=True, kw_only=True):
    """A filter of the job list."""

    group: str
    """One of _GROUPS, or "all"."""
    name: str
    """Part of the file name."""
    before: str
    """Job before the first one listed; empty for the newest."""

    def address(self, path: str = "/", **changes: str) -> str:
        """Return the address of the list with this filter and some fields changed."""
        fields = {"state": self.group, "name": self.name, "before": self.before, **changes}
        query = {name: value for name, value in fields.items() if value and (name, value) != ("state", "all")}
        return f"{path}?{urlencode(query)}" if query else path

    @property
    def is_default(self) -> bool:
        """The newest jobs of all."""
        return self.group == "all" and not self.name and not self.before


async def show(request: Request) -> Response:
    """Respond with the page."""
    gateway: Gateway = request.app.state.gateway
    context = await _context(request)
    snapshot: StatusSnapshot = context["snapshot"]
    limits = [size for size in (gateway.max_bytes, snapshot.welcome.max_upload_bytes) if size]
    return rendering.page(
        request,
        "overview.html",
        languages=language_choices(),
        formats=snapshot.welcome.formats,
        max_bytes=min(limits),
        is_page=True,
        **context,
    )


async def show_live(request: Request) -> Response:
    """Respond with the part of the page that changes."""
    return rendering.fragment(request, "overview_live.html", is_page=False, **await _context(request))


async def health(request: Request) -> Response:
    """Respond with the gateway's view of the daemon, for load balancers; without a token."""
    cache: StatusCache = request.app.state.status_cache
    try:
        summary = health_summary((await cache.get()).stats, 0, MAX_FAILED)
    except (RequestError, SubtitleError):
        return JSONResponse({"status": "unavailable"}, 503)
    is_working = summary.level != "bad" and summary.message != "health.draining"
    return JSONResponse({"status": "ok" if is_working else "failing"}, 200 if is_working else 503)


def parse_filter(request: Request) -> ListFilter:
    """Parse the filter in the query; invalid values are ignored."""
    query = request.query_params
    group = query.get("state", "all")
    return ListFilter(
        group=group if group in _GROUPS else "all",
        name=query.get("name", "").strip()[:MAX_QUERY_CHARS],
        before=query.get("before", "")[:64],
    )


async def _context(request: Request) -> dict[str, Any]:
    cache: StatusCache = request.app.state.status_cache
    snapshot, list_filter, t = await cache.get(), parse_filter(request), Translator(language_of(request))
    jobs = snapshot.recent if list_filter.is_default else await _list(request, list_filter)
    names = {job.id: name_of(job, t) for job in snapshot.active}
    workers = [
        worker_row(worker, snapshot.speed, names, t)
        for worker in snapshot.stats.workers
        if not worker.has_left
    ]
    decoders = {worker.slot for worker in snapshot.stats.workers if worker.role == "prepare"}
    failed = recently_failed(snapshot.failed, time.time() * 1000)
    failures = failed[:MAX_FAILURES_SHOWN] if list_filter.is_default else ()
    counts = snapshot.stats.jobs
    return {
        "snapshot": snapshot,
        "filter": list_filter,
        "health": health_summary(snapshot.stats, len(failed), MAX_FAILED),
        "eta": estimate(snapshot.stats, snapshot.speed, (*snapshot.recent, *snapshot.active)),
        "workers": [worker for worker in workers if worker.slot not in decoders],
        "decoders": [worker for worker in workers if worker.slot in decoders],
        "failures": [job_row(job, t) for job in failures],
        "jobs": [job_row(job, t) for job in jobs[:PAGE_SIZE] if job not in failures],
        "older": list_filter.address(before=jobs[PAGE_SIZE - 1].id) if len(jobs) > PAGE_SIZE else "",
        "groups": {
            group: sum(counts.get(state, 0) for state in _GROUPS.get(group, tuple(counts)))
            for group in ("all", *_GROUPS)
        },
    }


async def _list(request: Request, list_filter: ListFilter) -> tuple[JobFacts, ...]:
    gateway: Gateway = request.app.state.gateway
    states = _GROUPS.get(list_filter.group, ())
    async with daemon_timeout():
        return await gateway.client.list(
            states, limit=PAGE_SIZE + 1, before=list_filter.before, name=list_filter.name
        )
