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
from subtitle.messages import Chinese, Flag
from subtitled.http.errors import RequestError
from subtitled.http.gateway import Gateway
from subtitled.languages import code_of
from subtitled.web import rendering
from subtitled.web.i18n import Translator, language_choices, language_of
from subtitled.web.status_cache import (
    MAX_FAILED,
    RUNNING,
    StatusCache,
    StatusSnapshot,
    page_size,
)
from subtitled.web.view_models import (
    failed_ms,
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
DETAILS = ("language", "model", "inbox", "tag", "damage", "sort")
FIELDS = ("name", "before", *DETAILS)
SORTS = ("newest", "oldest", "name", "longest")
DAMAGES = ("damaged", "unheard")
_GROUPS = {"running": RUNNING, "done": ("done",), "failed": ("failed",)}


class ListFilter(Struct, frozen=True, kw_only=True):
    """A filter of the job list."""

    group: str
    """One of _GROUPS, or "all"."""
    name: str
    """Part of the file name."""
    before: str
    """Job before the first one listed; empty for the newest."""
    language: str = ""
    model: str = ""
    inbox: str = ""
    tag: str = ""
    damage: str = ""
    """"damaged": only files with lost audio; "unheard": only those with speech without text."""
    sort: str = ""
    """One of SORTS; empty for the newest first."""

    def address(self, path: str = "/", **changes: str) -> str:
        """Return the address of the list with this filter and some fields changed."""
        fields = {"state": self.group, **{name: getattr(self, name) for name in FIELDS}, **changes}
        query = {name: value for name, value in fields.items() if value and (name, value) != ("state", "all")}
        return f"{path}?{urlencode(query)}" if query else path

    @property
    def is_default(self) -> bool:
        """The newest jobs of all."""
        return self.group == "all" and not any(getattr(self, name) for name in FIELDS)

    @property
    def has_details(self) -> bool:
        """Whether a field of the form's details is set."""
        return any(getattr(self, name) for name in DETAILS)

    @property
    def is_queue_order(self) -> bool:
        """Whether the list is in the order in which the jobs are started."""
        return self.group == "running" and not self.sort

    def query(self) -> dict[str, Any]:
        """Return the filter as parameters of `Client.list`."""
        default = "queue" if self.is_queue_order else "newest"
        return {
            "name": self.name,
            "before": self.before,
            "language": self.language,
            "model": self.model,
            "inbox": self.inbox,
            "tag": self.tag or None,
            "is_damaged": self.damage == "damaged",
            "is_unheard": self.damage == "unheard",
            "sort": self.sort or default,
        }


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
        url_hosts=snapshot.welcome.url_hosts,
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
        language=code_of(query.get("language", "")) or "",
        model=query.get("model", "").strip()[:MAX_QUERY_CHARS],
        inbox=query.get("inbox", "").strip()[:4096],
        tag=query.get("tag", "").strip()[:MAX_QUERY_CHARS],
        damage=query["damage"] if query.get("damage") in DAMAGES else "",
        sort=query["sort"] if query.get("sort") in SORTS else "",
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
    jobs = (
        snapshot.recent
        if list_filter.is_default
        else await cache.list(states_of(list_filter), **list_filter.query())
    )
    size = page_size(list_filter.before)
    names = {job.id: name_of(job, t) for job in snapshot.active}
    workers = [
        worker_row(worker, snapshot.speed, names, t)
        for worker in snapshot.stats.workers
        if not worker.has_left
    ]
    decoders = {worker.slot for worker in snapshot.stats.workers if worker.role == "prepare"}
    failed = recently_failed(snapshot.failed, time.time() * 1000)
    running = snapshot.running if list_filter.is_default else ()
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
        "failed_until": max(map(failed_ms, failed), default=0),
        "running": [to_row(job, t, job.position) for job in running],
        "jobs": [
            to_row(job, t, job.position)
            for job in jobs[:size]
            if job.id not in {other.id for other in (*failures, *running)}
        ],
        "known": {
            "language": sorted(
                {(job.language, t.language_name(job.language)) for job in snapshot.recent if job.language}
            ),
            "model": snapshot.welcome.models,
            "inbox": sorted({job.inbox for job in snapshot.recent if job.inbox}),
            "tag": sorted({job.tag for job in snapshot.recent if job.tag}),
        },
        "older": list_filter.address(before=jobs[size - 1].id) if len(jobs) > size else "",
        "groups": {
            group: sum(counts.get(state, 0) for state in _GROUPS.get(group, tuple(counts)))
            for group in ("all", *_GROUPS)
        },
    }
