"""One job: its facts, how far it is, and when it is done its player."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from subtitle.errors import ServerError
from subtitle.messages import JobFacts, LayoutOptions
from subtitle.progress import ENDED, progress_of
from subtitled.cues.render import read_json
from subtitled.cues.transcript import Transcript
from subtitled.http.errors import as_request_error
from subtitled.http.gateway import Gateway
from subtitled.web import rendering
from subtitled.web.i18n import Translator
from subtitled.web.language_choice import language_of
from subtitled.web.language_names import TONGUES
from subtitled.web.layout_form import asked_of, layout_for
from subtitled.web.status_cache import StatusCache, patience
from subtitled.web.view_models import name_of

LISTED = 100
"""Cues on one page of those that are sent with it."""
SOON_MS = 1_800_000
"""The cues of a longer file are some tenths of a second to lay out: its page is sent without, and the script asks for them."""

HEARD_S = 1.0
"""Whether the media is still there is waited for so long: others may be listening."""


class CueList(Struct, frozen=True, kw_only=True):
    """The part of a job's cues that is sent with its page."""

    transcript: Transcript
    first: int
    """Index of the first one."""

    @property
    def last(self) -> int:
        """Index after the last one."""
        return min(self.first + LISTED, len(self.transcript.cues))


async def show(request: Request) -> Response:
    """Answer with the page."""
    gateway: Gateway = request.app.state.gateway
    pulse: StatusCache = request.app.state.pulse
    look = await pulse.look()
    job = await _status(request)
    asked = asked_of(request.query_params)
    layout, listing, why_unheard = None, None, ""
    if has_text(job):
        why_unheard = await _why_unheard(gateway, job.id)
    if has_text(job) and (asked or job.audio_ms <= SOON_MS or "from" in request.query_params):
        first = _number(request.query_params.get("from", ""))
        made = await _transcript(gateway, job.id)
        layout = layout_for(asked, made.limits) if asked else None
        laid_out = await _transcript(gateway, job.id, layout) if layout else made
        listing = CueList(transcript=laid_out, first=max(0, min(first, len(laid_out.cues) - 1)))
    return rendering.page(
        request,
        "job.html",
        **_facts(request, job),
        has_text=has_text(job),
        listing=listing,
        why_unheard=why_unheard,
        asked=asked,
        downloads=[(form, result_address(job.id, form, layout)) for form in look.welcome.formats],
        page_from=lambda first: f"/jobs/{job.id}?{urlencode({**asked, 'from': first})}",
    )


async def show_live(request: Request) -> Response:
    """Answer with the part of it that changes until the job has ended."""
    return rendering.fragment(request, "job_live.html", **_facts(request, await _status(request)))


def has_text(job: JobFacts) -> bool:
    """Say whether there is something to play: all of a file, or of a failed one what was finished."""
    if job.state == "failed":
        return job.segments.get("done", 0) > 0
    # What had subtitles already was read, and made none.
    return job.state == "done" and not job.cause


def result_address(job: str, form: str, layout: LayoutOptions | None) -> str:
    """Return where a job's subtitles are."""
    query = {"format": form}
    if layout is not None:
        told = {name: value for name, value in msgspec.to_builtins(layout).items() if value is not None}
        query["layout"] = msgspec.json.encode(told).decode()
    return f"/api/jobs/{quote(job)}/result?{urlencode(query)}"


async def _status(request: Request) -> JobFacts:
    gateway: Gateway = request.app.state.gateway
    async with patience():
        return await gateway.client.status(request.path_params["job"])


async def _transcript(gateway: Gateway, job: str, layout: LayoutOptions | None = None) -> Transcript:
    _, content = await gateway.subtitles(job, "json", layout)
    return await asyncio.to_thread(read_json, content)


async def _why_unheard(gateway: Gateway, job: str) -> str:
    """Return why a job's media can never be heard, "" where it can, or where that is not known soon."""
    try:
        async with asyncio.timeout(HEARD_S):
            await gateway.client.audio(job, 0, 0)
    except ServerError as error:
        return str(as_request_error(error)) if error.code == "NOT_FOUND" else ""
    except TimeoutError:
        return ""
    return ""


def _facts(request: Request, job: JobFacts) -> dict[str, Any]:
    took_ms = (job.ended_ms or 0) - (job.started_ms or 0) if job.started_ms else 0
    return {
        "job": job,
        "name": name_of(job, Translator(language_of(request))),
        "has_ended": job.state in ENDED,
        "progress": progress_of(job),
        "language": TONGUES.get(job.language, job.language) if job.language else "",
        "took_ms": took_ms if job.ended_ms else 0,
        "missing": [_gap(told) for told in job.missing],
        # Where the files lie is in the job's source already.
        "outputs": [path.rpartition("/")[2] for path in job.outputs],
    }


def _gap(told: str) -> tuple[int, int, str]:
    """Return a stretch of speech without text: start, end, why."""
    start, end, cause = told.split(" ", 2)
    return int(start), int(end), cause


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
