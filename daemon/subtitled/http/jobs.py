"""The gateway's own REST interface: jobs as resources."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from urllib.parse import parse_qs, quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from subtitle.aio import AsyncClient
from subtitle.messages import JobOptions
from subtitle.output_files import safe_name
from subtitle.progress import ENDED
from subtitle.requests import fault_of
from subtitled.http import sse
from subtitled.http.errors import RequestError, not_allowed
from subtitled.http.forms import MAX_FIELDS, UploadForm, file_chunks, prompt_tail, read_body
from subtitled.http.gateway import Gateway
from subtitled.http.live_text import follow_text
from subtitled.http.openapi import document
from subtitled.http.player import parse_layout, parse_task, parse_version
from subtitled.http.response_formats import json_response, media_type_of, payload

MAX_LISTED = 1000
MAX_FORM_BYTES = 2**16
"""Maximum size of a form without a file."""
_UPLOAD_PARAMS = frozenset({"name", "options", "url"})
"""Parameters of a submission that are not fields of JobOptions."""
_NESTED_FIELDS = frozenset({"vad", "layout"})
"""Fields of JobOptions that are accepted in `options` only."""
_LIST_FIELDS = frozenset({"formats", "tasks", "flags", "translate_to"})


def routes() -> list[Route]:
    """Return the interface's routes."""
    return [
        Route("/api/jobs", _list, methods=["GET"]),
        Route("/api/jobs", _submit, methods=["POST"]),
        Route("/api/jobs/{job}", _status, methods=["GET"]),
        Route("/api/jobs/{job}", _cancel, methods=["DELETE"]),
        Route("/api/jobs/{job}/retry", _retry, methods=["POST"]),
        Route("/api/jobs/{job}/dismiss", _dismiss, methods=["POST"]),
        Route("/api/jobs/{job}/translate", _translate, methods=["POST"]),
        Route("/api/jobs/{job}/events", _events, methods=["GET"]),
        Route("/api/jobs/{job}/result", _result, methods=["GET"]),
        Route("/api/stats", _stats, methods=["GET"]),
        Route("/api/openapi.json", _openapi, methods=["GET"]),
    ]


async def _submit(request: Request) -> Response:
    """Submit a form with a `file`, a body that is the file, or the address of one as `url`."""
    gateway: Gateway = request.app.state.gateway
    media_type = request.headers.get("content-type", "").lower().partition(";")[0].strip()
    if media_type == "application/x-www-form-urlencoded" or "url" in request.query_params:
        job = await submit_url(request)
    elif request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        job = await submit_form(request)
    else:
        query = _query(request)
        chunks = file_chunks(request, gateway.max_bytes)
        job = await gateway.submit(chunks, _name(query, ""), parse_options(query))
    facts = await gateway.client.status(job)
    return json_response(facts, status=201, headers={"Location": f"/api/jobs/{job}"})


async def submit_url(request: Request) -> str:
    """Submit the address in the field `url` of a form or the query, with options in the other fields; return the job."""
    gateway: Gateway = request.app.state.gateway
    try:
        body = (await read_body(request, MAX_FORM_BYTES, "form")).decode()
        form = parse_qs(body, strict_parsing=bool(body), max_num_fields=MAX_FIELDS)
    except ValueError:
        raise RequestError(
            400, "bad_format", "the body must be a form (application/x-www-form-urlencoded)"
        ) from None
    fields = {**_query(request), **form}
    fields.pop("file", None)  # the empty field of the page's form
    url = next(iter(fields.pop("url", [])), "").strip()
    if not url:
        raise RequestError(400, "bad_format", "url: missing; send the address of a media file", param="url")
    job = await gateway.client.submit_url(url, options=parse_options(fields))
    return job.id


async def submit_form(request: Request) -> str:
    """Submit a form with a `file`, with options in its other fields or in the query; return the job."""
    gateway: Gateway = request.app.state.gateway
    query = _query(request)
    parse_options(query)
    form = UploadForm(request, "file", gateway.max_bytes)
    name = await form.open()
    params = {**query, **form.fields}
    if any(params.get("url", [])):
        raise RequestError(400, "bad_format", "url: not allowed with a file; send one of them", param="url")

    def final_options() -> JobOptions:
        return parse_options({**query, **form.fields})

    return await gateway.submit(form.chunks(), _name(params, name), parse_options(params), final_options)


def _query(request: Request) -> dict[str, list[str]]:
    return {name: request.query_params.getlist(name) for name in request.query_params}


async def _list(request: Request) -> Response:
    query = request.query_params
    limit = query.get("limit", "100")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= MAX_LISTED):
        raise not_allowed("limit", limit, f"1 to {MAX_LISTED}")
    jobs = await _client(request).list(query.getlist("state"), limit=int(limit), tag=query.get("tag"))
    return json_response({"jobs": jobs})


async def _status(request: Request) -> Response:
    return json_response(await _client(request).status(_job(request)))


async def _cancel(request: Request) -> Response:
    """Cancel a job, or with `delete=true` delete an ended one."""
    client, job = _client(request), _job(request)
    is_deletion = request.query_params.get("delete") == "true"
    return json_response(await (client.delete(job) if is_deletion else client.cancel(job)))


async def _retry(request: Request) -> Response:
    return json_response(await _client(request).retry(_job(request)))


async def _dismiss(request: Request) -> Response:
    return json_response(await _client(request).dismiss(_job(request)))


async def _translate(request: Request) -> Response:
    """Translate a job's transcript to the languages in `to`."""
    query = request.query_params
    is_retry = _flag(request, "is_retry")
    languages = list_of(query.getlist("to"))
    client = _client(request)
    return json_response(
        await client.translate(_job(request), languages, model=query.get("model", ""), is_retry=is_retry)
    )


def _flag(request: Request, name: str) -> bool:
    """Return a parameter that is true or false; raises RequestError."""
    text = request.query_params.get(name, "false")
    if text not in {"true", "false"}:
        raise not_allowed(name, text, "true, false")
    return text == "true"


def list_of(given: Iterable[str]) -> list[str]:
    """Return the parts of a list that is repeated or comma-separated."""
    return [part.strip() for text in given for part in text.split(",") if part.strip()]


async def _result(request: Request) -> Response:
    form = request.query_params.get("format", "srt")
    gateway: Gateway = request.app.state.gateway
    layout, task, version = parse_layout(request), parse_task(request), parse_version(request)
    subtitles, content = await gateway.retry_while_busy(
        gateway.client.subtitles,
        _job(request),
        form,
        layout=layout,
        task=task,
        version=version,
        language=request.query_params.get("language", "")[:64],
        is_bilingual=_flag(request, "is_bilingual"),
    )
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(safe_name(subtitles.name, form))}"
    }
    return Response(content, media_type=media_type_of(form), headers=headers)


async def _events(request: Request) -> Response:
    """Stream a job's journal until the job ends, starting after the entry in Last-Event-ID or `after`."""
    after = request.headers.get("last-event-id") or request.query_params.get("after", "0")
    if not (after.isascii() and after.isdigit() and int(after) < 2**63):
        raise not_allowed("after", after, "the id of an event")
    with_text = _flag(request, "text")
    job = _job(request)
    facts = await _client(request).status(job)
    if facts.state in ENDED and not [seq async for seq, _ in _journal(request, job, int(after))]:
        # 204 stops an EventSource from reconnecting.
        return Response(status_code=204)
    events = _journal_events(request, job, int(after))
    if with_text:
        events = _merged([events, _text_events(request, job)])
    return sse.event_stream(_with_end(request, job, events))


async def _with_end(request: Request, job: str, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(events):
        async for event in events:
            yield event
    yield sse.event(await _client(request).status(job), name="end")


async def _journal_events(request: Request, job: str, after_seq: int) -> AsyncGenerator[bytes]:
    async for seq, entry in _journal(request, job, after_seq):
        yield sse.event(entry, seq=seq)


async def _text_events(request: Request, job: str) -> AsyncGenerator[bytes]:
    """Yield provisional cues: those of all finished segments, then of each that changes, also after a reconnection."""
    async with aclosing(follow_text(request.app.state.gateway, job)) as texts:
        async for text in texts:
            data = {
                "segments": text.segments,
                "language": text.transcript.output_language,
                "cues": text.cues(),
            }
            yield sse.event(data, name="text")


async def _merged(sources: Sequence[AsyncGenerator[bytes]]) -> AsyncGenerator[bytes]:
    """Yield what several generators yield, as it comes; raises the first error of one of them."""
    waiting = {asyncio.ensure_future(anext(source, b"")): source for source in sources}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                source = waiting.pop(future)
                if event := future.result():
                    yield event
                    waiting[asyncio.ensure_future(anext(source, b""))] = source
    finally:
        for future in waiting:
            future.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for source in sources:
            await source.aclose()


async def _journal(request: Request, job: str, after_seq: int) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    """Yield entries after `after_seq`. Reads from the beginning, so that the last entry is seen for any `after_seq`."""
    async for event in _client(request).watch_to_end(job):
        if event.seq > after_seq:
            yield event.seq, payload(event)


async def _stats(request: Request) -> Response:
    return json_response(payload(await _client(request).stats()))


async def _openapi(_: Request) -> Response:
    return json_response(document())


def parse_options(values: Mapping[str, Iterable[str]]) -> JobOptions:
    """Parse JobOptions from parameters: fields one by one, or all as JSON in `options`; raises RequestError."""
    known = set(JobOptions.__struct_fields__) - _NESTED_FIELDS
    last = {name: [*given][-1] for name, given in values.items()}
    if unknown := sorted(last.keys() - known - _UPLOAD_PARAMS):
        name = unknown[0][:100]
        allowed = ", ".join(sorted(known | _UPLOAD_PARAMS))
        raise RequestError(400, "bad_format", f"{name}: unknown parameter ({allowed})", param=name)
    options: dict[str, Any] = {}
    try:
        options = msgspec.json.decode(last.get("options") or "{}", type=dict[str, Any])
        for name in last.keys() & known:
            options[name] = _option(name, [*values[name]])
        if unknown := sorted(options.keys() - set(JobOptions.__struct_fields__)):
            raise RequestError(
                400, "bad_format", f"options: {unknown[0][:100]!r} is not a job option", param="options"
            )
        if isinstance(prompt := options.get("initial_prompt"), str):
            options["initial_prompt"] = prompt_tail(prompt)
        return msgspec.convert(options, JobOptions, strict=False)
    except msgspec.ValidationError as error:
        param, fault = fault_of(error, options)
        raise RequestError(400, "bad_format", f"{param}: {fault}", param=param) from None
    except msgspec.DecodeError as error:
        raise RequestError(400, "bad_format", f"options: {error}", param="options") from None


def _option(name: str, given: list[str]) -> object:
    """Return a parameter as a JSON value; a list may be repeated or comma-separated."""
    if name in _LIST_FIELDS:
        return list_of(given)
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
