"""The overview: whether all is well, what is done now, all jobs."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlencode

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from subtitle.eta import outlook
from subtitle.messages import JobFacts
from subtitled.http.gateway import Gateway
from subtitled.web import rendering
from subtitled.web.health_summary import lately, verdict
from subtitled.web.i18n import Translator
from subtitled.web.language_choice import language_of
from subtitled.web.language_names import choices
from subtitled.web.status_cache import LISTED, MAX_FAILED, RUNNING, StatusCache, StatusSnapshot, patience
from subtitled.web.view_models import job_row, name_of, worker_row

SHOWN_FAILURES = 5
MAX_TEXT = 200
_GROUPS = {"running": RUNNING, "done": ("done",), "failed": ("failed",)}


class ListFilter(Struct, frozen=True, kw_only=True):
    """Which jobs somebody wants to see."""

    group: str
    """One of _GROUPS, or "all"."""
    name: str
    """What their names have in them."""
    before: str
    """The job after which the page begins; empty for the newest."""

    def address(self, path: str = "/", **changes: str) -> str:
        """Return where this choice is shown, with other values of its fields where any are given."""
        fields = {"state": self.group, "name": self.name, "before": self.before, **changes}
        kept = {name: value for name, value in fields.items() if value and (name, value) != ("state", "all")}
        return f"{path}?{urlencode(kept)}" if kept else path

    @property
    def is_all(self) -> bool:
        """The newest jobs of all."""
        return self.group == "all" and not self.name and not self.before


async def show(request: Request) -> Response:
    """Answer with the page."""
    gateway: Gateway = request.app.state.gateway
    facts = await _facts(request)
    look: StatusSnapshot = facts["look"]
    limits = [size for size in (gateway.max_bytes, look.welcome.max_upload_bytes) if size]
    return rendering.page(
        request,
        "overview.html",
        tongues=choices(),
        formats=look.welcome.formats,
        max_bytes=min(limits),
        is_whole=True,
        **facts,
    )


async def show_live(request: Request) -> Response:
    """Answer with the part of it that changes."""
    return rendering.fragment(request, "overview_live.html", is_whole=False, **await _facts(request))


def choice_of(request: Request) -> ListFilter:
    """Return which jobs a request asks for; what nobody can want is passed over."""
    query = request.query_params
    group = query.get("state", "all")
    return ListFilter(
        group=group if group in _GROUPS else "all",
        name=query.get("name", "").strip()[:MAX_TEXT],
        before=query.get("before", "")[:64],
    )


async def _facts(request: Request) -> dict[str, Any]:
    pulse: StatusCache = request.app.state.pulse
    look, choice, voice = await pulse.look(), choice_of(request), Translator(language_of(request))
    jobs = look.recent if choice.is_all else await _list(request, choice)
    names = {job.id: name_of(job, voice) for job in look.active}
    workers = [
        worker_row(worker, look.speed, names, voice) for worker in look.stats.workers if not worker.has_left
    ]
    readers = {worker.slot for worker in look.stats.workers if worker.role == "prepare"}
    failed = lately(look.failed, time.time() * 1000)
    failures = failed[:SHOWN_FAILURES] if choice.is_all else ()
    shown = [job for job in jobs[:LISTED] if job not in failures]
    counts = look.stats.jobs
    return {
        "look": look,
        "choice": choice,
        "verdict": verdict(look.stats, len(failed), MAX_FAILED),
        "left": outlook(look.stats, look.speed, (*look.recent, *look.active)),
        "workers": [worker for worker in workers if worker.slot not in readers],
        "readers": [worker for worker in workers if worker.slot in readers],
        "failures": [job_row(job, voice) for job in failures],
        "jobs": [job_row(job, voice) for job in shown],
        "older": choice.address(before=jobs[LISTED - 1].id) if len(jobs) > LISTED else "",
        "groups": [
            (group, sum(counts.get(state, 0) for state in _GROUPS.get(group, tuple(counts))))
            for group in ("all", *_GROUPS)
        ],
    }


async def _list(request: Request, choice: ListFilter) -> tuple[JobFacts, ...]:
    gateway: Gateway = request.app.state.gateway
    states = _GROUPS.get(choice.group, ())
    async with patience():
        return await gateway.client.list(states, limit=LISTED + 1, before=choice.before, name=choice.name)
