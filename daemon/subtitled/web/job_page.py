"""A job's page: progress, error, player, downloads and the layout form."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from subtitle.errors import ServerError
from subtitle.messages import JobFacts, LayoutOptions, Task
from subtitle.progress import ENDED, progress_of, tasks_of
from subtitled.config.layout_limits import LayoutLimits
from subtitled.cues.render import read_json
from subtitled.cues.transcript import Transcript
from subtitled.http.errors import RequestError, to_request_error
from subtitled.http.gateway import Gateway
from subtitled.web import rendering
from subtitled.web.i18n import Translator, language_choices, language_of
from subtitled.web.status_cache import StatusCache, daemon_timeout
from subtitled.web.view_models import name_of

PAGE_CUES = 100
"""Cues on one page of the list that is rendered without scripts."""
MAX_RENDERED_MS = 1_800_000
"""A longer job's cues take tenths of a second to lay out: the page is sent without them, and its script loads them."""
AUDIO_CHECK_S = 1.0
PROFILE = "profile"
LIMIT_FIELDS = ("max_chars", "max_lines", "max_chars_per_s", "min_ms", "max_ms", "gap_ms")
"""Number fields of the layout form, in order; an empty field keeps the job's own limit."""


class CueList(Struct, frozen=True, kw_only=True):
    """The cues rendered into the page."""

    transcript: Transcript
    first: int
    """Index of the first cue."""

    @property
    def last(self) -> int:
        """Index after the last cue."""
        return min(self.first + PAGE_CUES, len(self.transcript.cues))


async def show(request: Request) -> Response:
    """Respond with the page."""
    gateway: Gateway = request.app.state.gateway
    cache: StatusCache = request.app.state.status_cache
    snapshot = await cache.get()
    job = await _job(request)
    fields = form_fields(request.query_params)
    layout, cue_list, audio_error = None, None, ""
    if has_text(job):
        audio_error = await _audio_error(gateway, job.id)
    if has_text(job) and (fields or job.audio_ms <= MAX_RENDERED_MS or "from" in request.query_params):
        first = _number(request.query_params.get("from", ""))
        transcript = await _transcript(gateway, job.id)
        layout = layout_for(fields, transcript.limits) if fields else None
        if layout:
            transcript = await _transcript(gateway, job.id, layout)
        cue_list = CueList(transcript=transcript, first=max(0, min(first, len(transcript.cues) - 1)))
    return rendering.page(
        request,
        "job.html",
        **_context(request, job),
        cue_list=cue_list,
        audio_error=audio_error,
        fields=fields,
        downloads=[
            (task, [(form, result_address(job.id, form, layout, task)) for form in snapshot.welcome.formats])
            for task in tasks_of(job)
        ],
        translations=[
            (
                one,
                [
                    (form, result_address(job.id, form, layout, language=one.language))
                    for form in snapshot.welcome.formats
                ],
                result_address(job.id, "srt", layout, language=one.language, is_bilingual=True),
            )
            for one in job.translations
        ],
        languages=language_choices(Translator(language_of(request))),
        tracks=_tracks(request, job),
        page_from=lambda first: f"/jobs/{job.id}?{urlencode({**fields, 'from': first})}",
    )


def _tracks(request: Request, job: JobFacts) -> list[dict[str, str]]:
    """Return the subtitles that the player shows, by the parameters `task` and `language` of their requests, with a name."""
    t = Translator(language_of(request))
    # The translation of English is the transcript itself.
    tasks = tasks_of(job)[:1] if job.language == "en" else tasks_of(job)
    transcripts = [
        {"task": task or "", "language": "", "label": t.lookup("task", task or "transcribe")}
        for task in tasks
    ]
    return transcripts + [
        {"task": "", "language": one.language, "label": t.target_name(one.language)}
        for one in job.translations
    ]


async def show_live(request: Request) -> Response:
    """Respond with the part of the page that changes until the job has ended."""
    return rendering.fragment(request, "job_live.html", **_context(request, await _job(request)))


async def show_editor(request: Request) -> Response:
    """Respond with the editor of cues, which the player loads when a user begins to edit."""
    return rendering.fragment(request, "editor.html")


def has_text(job: JobFacts) -> bool:
    """Return whether there is text to play: all of a job that is done, or the finished part of a failed one."""
    if job.state == "failed":
        return job.segments.get("done", 0) > 0
    # A job that is done with a cause had subtitles already.
    return job.state in {"done", "translating"} and not job.cause


def result_address(
    job: str,
    form: str,
    layout: LayoutOptions | None,
    task: Task | None = None,
    *,
    language: str = "",
    is_bilingual: bool = False,
) -> str:
    """Return the address of a job's subtitles."""
    query = {"format": form} if task is None else {"format": form, "task": task}
    if language:
        query["language"] = language
    if is_bilingual:
        query["is_bilingual"] = "true"
    if layout is not None:
        options = {name: value for name, value in msgspec.to_builtins(layout).items() if value is not None}
        query["layout"] = msgspec.json.encode(options).decode()
    return f"/api/jobs/{quote(job)}/result?{urlencode(query)}"


def form_fields(query: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of the layout form that are not empty."""
    return {name: text for name in (PROFILE, *LIMIT_FIELDS) if (text := query.get(name, "").strip()[:20])}


def layout_for(fields: Mapping[str, str], limits: LayoutLimits | None) -> LayoutOptions:
    """Return the layout that the form requests; raises RequestError.

    Without a profile, its numbers replace those of `limits`, with which the job's cues were made.
    """
    kept = {} if PROFILE in fields or limits is None else _as_options(limits)
    try:
        layout = msgspec.convert({**kept, **fields}, LayoutOptions, strict=False)
    except msgspec.ValidationError as error:
        message = f"{error}; change the value in the form, or leave the field empty"
        raise RequestError(400, "bad_format", message) from None
    if layout.gap_ms is None or layout.chain_ms is None:
        return layout
    # A gap wider than chain_ms would be invalid.
    return msgspec.structs.replace(layout, chain_ms=max(layout.chain_ms, layout.gap_ms))


def _as_options(limits: LayoutLimits) -> dict[str, Any]:
    """Return limits as options; without a line width, the profile without limits."""
    options: dict[str, Any] = {PROFILE: "default" if limits.max_chars else "raw"}
    limits_set = msgspec.structs.asdict(limits).items()
    return options | {name: value for name, value in limits_set if _is_option(name, value)}


def _is_option(name: str, value: float) -> bool:
    """Return whether a client may request this limit: a configuration allows more, and 0 for no limit."""
    try:
        msgspec.convert({name: value}, LayoutOptions)
    except msgspec.ValidationError:
        return False
    return value > 0


async def _job(request: Request) -> JobFacts:
    gateway: Gateway = request.app.state.gateway
    async with daemon_timeout():
        return await gateway.client.status(request.path_params["job"])


async def _transcript(gateway: Gateway, job: str, layout: LayoutOptions | None = None) -> Transcript:
    _, content = await gateway.retry_while_busy(gateway.client.subtitles, job, "json", layout=layout)
    return await asyncio.to_thread(read_json, content)


async def _audio_error(gateway: Gateway, job: str) -> str:
    """Return why a job's audio is permanently unavailable; "" if it is available or that is not known in time."""
    try:
        async with asyncio.timeout(AUDIO_CHECK_S):
            await gateway.client.audio(job, 0, 0)
    except ServerError as error:
        return str(to_request_error(error)) if error.code == "NOT_FOUND" else ""
    except TimeoutError:
        return ""
    return ""


def _context(request: Request, job: JobFacts) -> dict[str, Any]:
    t = Translator(language_of(request))
    took_ms = job.ended_ms - job.started_ms if job.started_ms and job.ended_ms else 0
    return {
        "job": job,
        "name": name_of(job, t),
        "has_ended": job.state in ENDED,
        "progress": progress_of(job),
        "language": t.language_name(job.language) if job.language else "",
        "took_ms": took_ms,
        "missing": [_span(text) for text in job.missing],
        "unheard": [_span(text) for text in job.unheard],
        "damaged": [(round(start_s * 1000), round(end_s * 1000), "") for start_s, end_s in job.damaged],
        "has_text": has_text(job),
        "stage": _stage(job),
        # The folder is part of the job's source.
        "outputs": [path.rpartition("/")[2] for path in job.outputs],
    }


def _stage(job: JobFacts) -> str:
    """Return what the page of a job shows: "ended", "text" (final, in progress), "playable" (provisional text), or "waiting"."""
    if job.state in ENDED:
        return "ended"
    if has_text(job):
        return "text"
    return "playable" if job.audio_ms else "waiting"


def _span(text: str) -> tuple[int, int, str]:
    """Return start and end in ms, and the cause, of an element of `JobFacts.missing` or `JobFacts.unheard`."""
    start, end, cause = text.split(" ", 2)
    return int(start), int(end), cause


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
