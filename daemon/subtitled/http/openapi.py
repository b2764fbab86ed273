"""The OpenAPI document of our own interface (OpenAPI 3.1)."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
from msgspec import Struct

from subtitle import messages as ms
from subtitled.config.schema import Format
from subtitled.core.states import JobState
from subtitled.cues.transcript import Transcript
from subtitled.http.media_types import kind_of
from subtitled.http.player import CuesResponse, WaveformResponse
from subtitled.version import VERSION

_OF_THE_WIRE = ("type", "request")
_LAYOUT = "The cues are made anew within these limits, as JSON"
_WORDS = ("language", "task", "word_timestamps", "initial_prompt", "hotwords", "priority", "tag")


class ErrorSchema(Struct, frozen=True, kw_only=True):
    """Why a request cannot be done."""

    code: str
    """For programs."""
    message: str
    """For people: the value, the limit, and what to do."""
    param: str | None
    """The parameter at fault, if one is."""


class JobListSchema(Struct, frozen=True, kw_only=True):
    """The newest jobs, newest first."""

    jobs: tuple[ms.JobFacts, ...]


def document() -> dict[str, Any]:
    """Return the document, whose schemas are those of the messages themselves."""
    _, schemas = msgspec.json.schema_components(
        (
            ms.JobFacts,
            JobListSchema,
            ms.JobOptions,
            ms.Event,
            ms.StatsInfo,
            Transcript,
            CuesResponse,
            WaveformResponse,
            ErrorSchema,
        ),
        ref_template="#/components/schemas/{name}",
    )
    for schema in schemas.values():
        if "properties" not in schema:
            continue  # an Enum
        for name in _OF_THE_WIRE:
            schema["properties"].pop(name, None)
        schema["required"] = [name for name in schema.get("required", ()) if name not in _OF_THE_WIRE]
    return {
        "openapi": "3.1.0",
        "info": {"title": "subtitled", "version": VERSION, "description": "Media files to subtitles."},
        "security": [{}, {"token": []}],
        "paths": _paths(schemas["JobOptions"]["properties"]),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths(options: dict[str, Any]) -> dict[str, Any]:
    job = {"name": "job", "in": "path", "required": True, "schema": {"type": "string"}}
    words = [_query(name, options[name]) for name in _WORDS]
    words.append(_query("formats", {"type": "array", "items": {"enum": list(get_args(Format))}}))
    words.append(
        _json_query("options", "JobOptions", "All options as JSON; the other parameters go before it")
    )
    after = "Only entries after this one; a browser says it as Last-Event-ID when it connects again"
    return {
        "/api/jobs": {
            "get": _operation(
                "List the newest jobs.",
                {200: _json("JobListSchema")},
                _query("state", {"type": "array", "items": {"enum": [state.value for state in JobState]}}),
                _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
                _query("tag", {"type": "string"}),
                faults=(400,),
            ),
            "post": {
                **_operation(
                    "Send a media file. A form's fields may also say what the query may.",
                    {201: _json("JobFacts")},
                    _query("name", {"type": "string"}, "The file's name; else that in the form"),
                    *words,
                    faults=(400, 408, 413, 429, 507),
                ),
                "requestBody": {"required": True, "content": _media()},
            },
        },
        "/api/jobs/{job}": {
            "get": _operation("Tell about a job.", {200: _json("JobFacts")}, job, faults=(404,)),
            "delete": _operation("Cancel a job.", {200: _json("JobFacts")}, job, faults=(404, 409)),
        },
        "/api/jobs/{job}/retry": {
            "post": _operation("Try a failed job again.", {200: _json("JobFacts")}, job, faults=(404, 409)),
        },
        "/api/jobs/{job}/events": {
            "get": _operation(
                "Tell a job's journal until its end, each entry as Event; the last event, `end`, is JobFacts.",
                {
                    200: {"description": "Server-sent events", "content": {"text/event-stream": {}}},
                    204: {"description": "The job has ended, and there is nothing more to tell"},
                },
                job,
                _query("after", {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, after),
                faults=(400, 404),
            ),
        },
        "/api/jobs/{job}/result": {
            "get": _operation(
                "Get a job's subtitles, or of a failed one what was finished.",
                {200: {"description": "The file", "content": _files()}},
                job,
                _query("format", {"enum": list(get_args(Format)), "default": "srt"}),
                _json_query("layout", "LayoutOptions", _LAYOUT),
                faults=(400, 404, 409, 429),
            ),
        },
        "/api/jobs/{job}/cues": {
            "get": _operation(
                "Get a job's cues, with what was heard in each.",
                {200: _json("CuesResponse")},
                job,
                _json_query("layout", "LayoutOptions", _LAYOUT),
                faults=(400, 404, 409, 429),
            ),
        },
        "/api/jobs/{job}/waveform": {
            "get": _operation(
                "Tell how loud a job's audio is.", {200: _json("WaveformResponse")}, job, faults=(404, 409)
            ),
        },
        "/api/jobs/{job}/audio": {
            method: _operation(
                summary,
                {
                    200: {"description": "A WAV file", "content": {"audio/wav": {}}},
                    206: {"description": "A range of its bytes", "content": {"audio/wav": {}}},
                    416: {"description": "It has no such bytes"},
                },
                job,
                {
                    "name": "Range",
                    "in": "header",
                    "schema": {"type": "string"},
                    "description": "bytes=FIRST-LAST",
                },
                faults=(404, 409, 413, 429, 500),
            )
            for method, summary in (("get", "Hear a job."), ("head", "Tell how much there is to be heard."))
        },
        "/api/stats": {"get": _operation("Tell of workers, queue and speed.", {200: _json("StatsInfo")})},
    }


def _operation(
    summary: str, answers: dict[int, Any], *parameters: dict[str, Any], faults: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Return one operation; every one may also be refused for who asks, and while the daemon is away."""
    refused = {status: _json("ErrorSchema") for status in (*faults, 401, 403, 503)}
    return {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {str(status): answer for status, answer in sorted((answers | refused).items())},
    }


def _query(name: str, schema: dict[str, Any], description: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "schema": schema,
        "description": description or schema.get("description", ""),
    }


def _json_query(name: str, struct: str, description: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{struct}"}
    content = {"application/json": {"schema": schema}}
    return {"name": name, "in": "query", "description": description, "content": content}


def _json(name: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"description": name, "content": {"application/json": {"schema": schema}}}


def _files() -> dict[str, Any]:
    """Return what subtitles may be: texts, and the JSON that holds everything known about the file."""
    files: dict[str, Any] = {kind_of(form): {"schema": {"type": "string"}} for form in get_args(Format)}
    return {**files, kind_of("json"): {"schema": {"$ref": "#/components/schemas/Transcript"}}}


def _media() -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"file": file}, "required": ["file"]}
    return {"multipart/form-data": {"schema": form}, "application/octet-stream": {"schema": file}}
