"""The overview page: health, summary figures, workers and jobs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any, get_args
from urllib.parse import urlencode

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from subtitle.errors import SubtitleError
from subtitle.eta import estimate
from subtitle.messages import Chinese, Flag, JobFacts
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
from subtitled.web.view_models import (
    health_summary,
    job_row,
    model_row,
    name_of,
    recent_faults,
    recently_failed,
    worker_row,
)

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
        model_names=snapshot.welcome.models,
        languages=language_choices(Translator(language_of(request))),
        chinese=get_args(Chinese),
        flags=get_args(Flag),
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


def parse_filter(query: Mapping[str, str]) -> ListFilter:
    """Parse the filter in a query; invalid values are ignored."""
    group = query.get("state", "all")
    return ListFilter(
        group=group if group in _GROUPS else "all",
        name=query.get("name", "").strip()[:MAX_QUERY_CHARS],
        before=query.get("before", "")[:64],
    )


def states_of(list_filter: ListFilter) -> tuple[str, ...]:
    """Return the states of a filter; empty for all."""
    return _GROUPS.get(list_filter.group, ())


async def _context(request: Request) -> dict[str, Any]:
    cache: StatusCache = request.app.state.status_cache
    snapshot, list_filter, t = (
        await cache.get(),
        parse_filter(request.query_params),
        Translator(language_of(request)),
    )
    positions = {job.id: number for number, job in enumerate(snapshot.queue, 1)}
    if list_filter.is_default:
        jobs = snapshot.recent
    elif list_filter.group == "running" and not list_filter.name and snapshot.queue:
        jobs = _in_queue_order(snapshot, list_filter.before)
    else:
        jobs = await _list(request, list_filter)
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
    models = snapshot.stats.models
    to_row = partial(job_row, has_models=len(models) > 1)
    return {
        "snapshot": snapshot,
        "filter": list_filter,
        "health": health_summary(snapshot.stats, len(recent_faults(failed)), MAX_FAILED),
        "eta": estimate(snapshot.stats, snapshot.speed, (*snapshot.recent, *snapshot.active)),
        "workers": [worker for worker in workers if worker.slot not in decoders],
        "decoders": [worker for worker in workers if worker.slot in decoders],
        "models": [model_row(model, t) for model in models] if snapshot.stats.has_several_models else [],
        "failures": [to_row(job, t) for job in failures],
        "jobs": [to_row(job, t, positions.get(job.id, 0)) for job in jobs[:PAGE_SIZE] if job not in failures],
        "older": list_filter.address(before=jobs[PAGE_SIZE - 1].id) if len(jobs) > PAGE_SIZE else "",
        "groups": {
            group: sum(counts.get(state, 0) for state in _GROUPS.get(group, tuple(counts)))
            for group in ("all", *_GROUPS)
        },
    }


def _in_queue_order(snapshot: StatusSnapshot, after: str) -> tuple[JobFacts, ...]:
    """Return one page and one of the jobs in progress: active ones first, then the queue, from after a job on."""
    uploading = (job for job in snapshot.recent if job.state == "receiving")
    jobs = (*snapshot.active, *uploading, *snapshot.queue)
    start = next((index for index, job in enumerate(jobs, 1) if job.id == after), 0)
    return jobs[start : start + PAGE_SIZE + 1]


async def _list(request: Request, list_filter: ListFilter) -> tuple[JobFacts, ...]:
    gateway: Gateway = request.app.state.gateway
    states = states_of(list_filter)
    async with daemon_timeout():
        return await gateway.client.list(
            states, limit=PAGE_SIZE + 1, before=list_filter.before, name=list_filter.name
        )
