"""Our own interface: jobs as resources, for scripts that cannot speak ZeroMQ."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from subtitle.aio import AsyncClient
from subtitle.messages import JobFacts, JobOptions
from subtitled.http import sse
from subtitled.http.errors import RequestError
from subtitled.http.forms import Form, raw
from subtitled.http.gateway import Gateway, has_ended
from subtitled.http.media_types import kind_of
from subtitled.http.openapi import document
from subtitled.http.player import layout_of

MAX_LISTED = 1000
_LISTS = frozenset({"formats"})
_PLACES = frozenset({"name", "options"})
"""Parameters of a submission that are no field of JobOptions."""
_NESTED = frozenset({"vad", "layout"})
"""Fields that are structures: they are said in `options`."""


def routes() -> list[Route]:
    """Return the interface's routes."""
    return [
        Route("/api/jobs", _list, methods=["GET"]),
        Route("/api/jobs", _submit, methods=["POST"]),
        Route("/api/jobs/{job}", _status, methods=["GET"]),
        Route("/api/jobs/{job}", _cancel, methods=["DELETE"]),
        Route("/api/jobs/{job}/retry", _retry, methods=["POST"]),
        Route("/api/jobs/{job}/events", _events, methods=["GET"]),
        Route("/api/jobs/{job}/result", _result, methods=["GET"]),
        Route("/api/stats", _stats, methods=["GET"]),
        Route("/api/openapi.json", _openapi, methods=["GET"]),
    ]


async def _submit(request: Request) -> Response:
    """Take a form with a `file`, or a body that is the file, and options in either's parameters."""
    gateway: Gateway = request.app.state.gateway
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        job = await take_form(request)
    else:
        query = _query(request)
        job = await gateway.submit(raw(request, gateway.max_bytes), _name(query, ""), options_of(query))
    facts = await gateway.client.status(job)
    return _json(facts, status=201, headers={"Location": f"/api/jobs/{job}"})


async def take_form(request: Request) -> str:
    """Take a form with a `file`, and options in its other fields or in the query; return the job."""
    gateway: Gateway = request.app.state.gateway
    query = _query(request)
    options_of(query)
    form = Form(request, "file", gateway.max_bytes)
    name = await form.open()
    given = {**query, **form.fields}

    def final_options() -> JobOptions:
        return options_of({**query, **form.fields})

    return await gateway.submit(form.pieces(), _name(given, name), options_of(given), final_options)


def _query(request: Request) -> dict[str, list[str]]:
    return {name: request.query_params.getlist(name) for name in request.query_params}


async def _list(request: Request) -> Response:
    query = request.query_params
    limit = query.get("limit", "100")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= MAX_LISTED):
        raise RequestError(
            400, "bad_format", f"limit: got {limit[:20]!r}, allowed: 1 to {MAX_LISTED}", param="limit"
        )
    jobs = await _client(request).list(query.getlist("state"), limit=int(limit), tag=query.get("tag"))
    return _json({"jobs": jobs})


async def _status(request: Request) -> Response:
    return _json(await _client(request).status(_job(request)))


async def _cancel(request: Request) -> Response:
    return _json(await _client(request).cancel(_job(request)))


async def _retry(request: Request) -> Response:
    return _json(await _client(request).retry(_job(request)))


async def _result(request: Request) -> Response:
    form = request.query_params.get("format", "srt")
    gateway: Gateway = request.app.state.gateway
    answer, content = await gateway.subtitles(_job(request), form, layout_of(request))
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(answer.name)}"}
    return Response(content, media_type=kind_of(form), headers=headers)


async def _events(request: Request) -> Response:
    """Tell a job's journal until its end; after the entry that Last-Event-ID names, which a browser sends by itself."""
    shown = request.headers.get("last-event-id") or request.query_params.get("after", "0")
    if not (shown.isascii() and shown.isdigit() and int(shown) < 2**63):
        raise RequestError(
            400,
            "bad_format",
            f"Last-Event-ID: got {shown[:20]!r}, allowed: the id of an event",
            param="after",
        )
    job = _job(request)
    facts = await _client(request).status(job)
    if has_ended(facts) and not [seq async for seq, _ in _journal(request, job, int(shown))]:
        # By this a browser knows that it need not ask again.
        return Response(status_code=204)
    return sse.answer(_told(request, job, int(shown)))


async def _told(request: Request, job: str, after_seq: int) -> AsyncIterator[bytes]:
    async for seq, entry in _journal(request, job, after_seq):
        yield sse.event(entry, seq=seq)
    yield sse.event(await _client(request).status(job), name="end")


async def _journal(request: Request, job: str, after_seq: int) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    """Yield a job's entries after one of them; from the beginning, so that the end is among them wherever one begins."""
    async for event in _client(request).watch_to_end(job):
        if event.seq > after_seq:
            yield event.seq, _plain(event)


async def _stats(request: Request) -> Response:
    return _json(_plain(await _client(request).stats()))


async def _openapi(_: Request) -> Response:
    return _json(document())


def options_of(values: Mapping[str, Iterable[str]]) -> JobOptions:
    """Return the options that parameters say: JobOptions as JSON in `options`, and its fields one by one; raises RequestError."""
    known = set(JobOptions.__struct_fields__) - _NESTED
    last = {name: [*given][-1] for name, given in values.items()}
    if unknown := sorted(last.keys() - known - _PLACES):
        allowed = ", ".join(sorted(known | _PLACES))
        raise RequestError(
            400, "bad_format", f"{unknown[0][:100]}: is none of {allowed}", param=unknown[0][:100]
        )
    try:
        options: dict[str, Any] = msgspec.json.decode(last.get("options") or "{}", type=dict[str, Any])
        for name in last.keys() & known:
            options[name] = _value(name, [*values[name]])
        if unknown := sorted(options.keys() - set(JobOptions.__struct_fields__)):
            raise RequestError(
                400, "bad_format", f"options: {unknown[0][:100]!r} is no option of a job", param="options"
            )
        return msgspec.convert(options, JobOptions, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        fault, _, where = str(error).partition(" - at `$.")
        param = where.rstrip("`") or "options"
        raise RequestError(400, "bad_format", f"{param}: {fault}", param=param) from None


def _value(name: str, given: list[str]) -> object:
    """Return a field as JSON would have it; a list's members are apart, or divided by commas."""
    if name in _LISTS:
        return [part for text in given for part in text.split(",") if part]
    if name == "word_timestamps" and given[-1] in {"true", "false"}:
        return given[-1] == "true"
    return given[-1]


def _name(query: Mapping[str, list[str]], name: str) -> str:
    return query.get("name", [name])[-1][:1024]


def _client(request: Request) -> AsyncClient:
    gateway: Gateway = request.app.state.gateway
    return gateway.client


def _job(request: Request) -> str:
    return str(request.path_params["job"])


def _plain(message: Any) -> dict[str, Any]:
    """Return a message of the protocol without what only the protocol needs."""
    plain: dict[str, Any] = msgspec.to_builtins(message)
    return {name: value for name, value in plain.items() if name not in {"type", "request"}}


def _json(
    value: JobFacts | Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(msgspec.json.encode(value), status, headers, "application/json")
