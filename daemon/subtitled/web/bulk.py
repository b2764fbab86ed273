"""Actions on several jobs: retry, cancel, delete, and a ZIP file of their subtitles."""

from __future__ import annotations

import re
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from subtitle.errors import SubtitleError
from subtitle.output_files import limited, safe_name, safe_text, split_tags
from subtitle.progress import tasks_of
from subtitled.http.errors import RequestError, not_allowed, to_request_error
from subtitled.http.forms import read_form
from subtitled.http.gateway import Gateway
from subtitled.http.jobs import MAX_LISTED
from subtitled.web import reasons
from subtitled.web.actions import redirect_back
from subtitled.web.i18n import Translator, language_of
from subtitled.web.overview import parse_filter, states_of

MAX_JOBS = 10_000
MAX_BODY_BYTES = 2**20
_ACTIONS = ("retry", "cancel", "delete", "priority")


async def act(request: Request) -> Response:
    """Retry, cancel or delete the selected jobs; respond with JSON to a script, else redirect."""
    gateway: Gateway = request.app.state.gateway
    fields = await _fields(request)
    action = fields.get("action", [""])[-1]
    if action not in _ACTIONS:
        raise not_allowed("action", action, ", ".join(_ACTIONS))
    call: Callable[[str], Awaitable[object]] = (
        partial(gateway.client.reorder, priority=_priority(fields))
        if action == "priority"
        else getattr(gateway.client, action)
    )
    jobs = _jobs(fields)
    errors, t = [], Translator(language_of(request))
    for job in jobs:
        try:
            await gateway.retry_while_busy(call, job)
        except SubtitleError as error:
            errors.append(reasons.translate(t, str(to_request_error(error))))
    if "application/json" in request.headers.get("accept", ""):
        request.app.state.status_cache.invalidate()
        return JSONResponse({"total": len(jobs), "done": len(jobs) - len(errors), "errors": errors[:10]})
    return redirect_back(request)


async def matching(request: Request) -> Response:
    """Respond with the ids of the jobs that match a filter, at most MAX_JOBS, so that a script selects these and no later ones."""
    gateway: Gateway = request.app.state.gateway
    list_filter = parse_filter(request.query_params)
    jobs: list[str] = []
    while len(jobs) < MAX_JOBS:
        page = await gateway.retry_while_busy(
            gateway.client.list,
            states_of(list_filter),
            limit=MAX_LISTED,
            **{**list_filter.query(), "before": jobs[-1] if jobs else ""},
        )
        jobs += [job.id for job in page]
        if len(page) < MAX_LISTED:
            break
    return JSONResponse({"jobs": jobs[:MAX_JOBS]})


async def move(request: Request) -> Response:
    """Start a waiting job before or after another one."""
    gateway: Gateway = request.app.state.gateway
    fields = await _fields(request)
    place = {name: fields[name][-1] for name in ("before", "after") if name in fields}
    job = await gateway.client.reorder(
        request.path_params["job"], before=place.get("before", ""), after=place.get("after", "")
    )
    request.app.state.status_cache.invalidate()
    return JSONResponse({"id": job.id, "priority": job.priority})


def _priority(fields: Mapping[str, list[str]]) -> int:
    text = fields.get("priority", [""])[-1]
    if not re.fullmatch("-?[0-9]{1,2}|-?100", text):
        raise not_allowed("priority", text, "-100 to 100")
    return int(text)


async def download(request: Request) -> Response:
    """Respond with a ZIP file of the selected jobs' subtitles, created while it is sent."""
    gateway: Gateway = request.app.state.gateway
    fields = await _fields(request)
    jobs, formats = _jobs(fields), fields.get("format") or ["srt"]
    headers = {"Content-Disposition": 'attachment; filename="subtitles.zip"'}
    return StreamingResponse(zip_chunks(gateway, jobs, formats), 200, headers, "application/zip")


async def zip_chunks(gateway: Gateway, jobs: list[str], formats: list[str]) -> AsyncIterator[bytes]:
    """Yield a ZIP file; jobs without subtitles are listed in its `errors.txt`."""
    buffer = _ChunkBuffer()
    file: Any = buffer  # typeshed requires more methods than ZipFile uses
    names: dict[str, int] = {}
    errors = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for job in jobs:
            for form in formats:
                try:
                    found = await _subtitles(gateway, job, form)
                except (RequestError, SubtitleError) as error:
                    errors.append(f"{job} {form}: {to_request_error(error)}\n")
                    continue
                for name, content in found:
                    archive.writestr(_unique(name, names), content)
                    yield buffer.take()
        if errors:
            archive.writestr("errors.txt", "".join(errors))
    yield buffer.take()


async def _subtitles(gateway: Gateway, job: str, form: str) -> list[tuple[str, bytes]]:
    """Return name and content of the files of all tasks and translations of a job; equal ones once."""
    facts = await gateway.retry_while_busy(gateway.client.status, job)
    if facts.state == "failed" and not facts.segments.get("done"):
        raise RequestError(409, "wrong_state", f"failed before any speech was transcribed: {facts.cause}")
    folder = "".join(f"{part}/" for part in folder_of(facts.tag))
    send, read = gateway.retry_while_busy, gateway.client.subtitles
    found = [await send(read, job, form, task=task) for task in tasks_of(facts)]
    found += [await send(read, job, form, language=one.language) for one in facts.translations]
    pairs = ((folder + safe_name(subtitles.name, form), content) for subtitles, content in found)
    return list(dict.fromkeys(pairs))  # the translation of English is the same file


def folder_of(tag: str) -> list[str]:
    """Return the parts of the folder that the page gave as the tag of an upload; none for another tag."""
    if not tag.endswith("/"):
        return []
    parts = (safe_text(part).strip() for part in tag.split("/"))
    return [part for part in parts if part.strip(".")]


class _ChunkBuffer:
    """A file that ZipFile writes to without seeking; `take` returns what was written since the last call."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes, /) -> int:
        self._data += data
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


def _unique(name: str, names: dict[str, int]) -> str:
    """Return a file name that is not in `names`, and add it; the value is the last number that a name was given."""
    folder, slash, last = name.rpartition("/")
    stem, tags = split_tags(last)
    number, unique = names.get(name, 1), name
    while unique in names:
        number += 1
        unique = folder + slash + limited(stem, f" ({number}){tags}")
    names[name] = number
    names.setdefault(unique, 1)
    return unique


async def _fields(request: Request) -> dict[str, list[str]]:
    """Return the fields of a URL-encoded form."""
    return await read_form(request, MAX_BODY_BYTES, 2 * MAX_JOBS)


def _jobs(fields: Mapping[str, list[str]]) -> list[str]:
    jobs = list(dict.fromkeys(fields.get("job", ())))
    if not jobs:
        raise RequestError(400, "bad_request", "no file is selected", param="job")
    return jobs[:MAX_JOBS]
