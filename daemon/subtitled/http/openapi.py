"""The OpenAPI 3.1 document of the gateway's own REST interface."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
from msgspec import Struct

from subtitle import messages as ms
from subtitled.config.schema import Format
from subtitled.core.states import JobState
from subtitled.cues.transcript import Transcript
from subtitled.http.edits import DiffResponse, EditRequest, VersionsResponse
from subtitled.http.operate import OperateRequest
from subtitled.http.player import (
    MAX_SEGMENT,
    ORIGINAL_TYPES,
    SEGMENT_TYPES,
    CuesResponse,
    VideoResponse,
    WaveformResponse,
)
from subtitled.http.response_formats import media_type_of
from subtitled.version import VERSION

_PROTOCOL_FIELDS = ("type", "request")
_LAYOUT = "Lay the cues out again with these limits; JSON"
_LANGUAGES = "Languages such as zh-TW, ja, Spanish; comma-separated or repeated"
_TASK = "Of a job with two tasks; default: the first"
_RANGE = {"name": "Range", "in": "header", "schema": {"type": "string"}, "description": "bytes=FIRST-LAST"}
_video_content: dict[str, Any] = {media_type: {} for media_type in ORIGINAL_TYPES}
_VERSION = {"type": "integer", "minimum": 0}
_FLAG = {"type": "boolean", "default": False}
_TASKS = {"enum": list(get_args(ms.Task))}


class ErrorSchema(Struct, frozen=True, kw_only=True):
    """An error."""

    code: str
    """For programs."""
    message: str
    """For people: the value, the limit and the remedy."""
    param: str | None
    """The invalid parameter, if there is one."""
    text: str = ""
    """The message in the language of `Accept-Language`, if the gateway has a translation; left out otherwise."""


class ConflictSchema(Struct, frozen=True, kw_only=True):
    """An edit that was not saved; after a conflict, with the versions that were saved meanwhile."""

    code: str
    message: str
    param: str | None
    version: int = 0
    versions: tuple[ms.CueVersion, ...] = ()


class JobListSchema(Struct, frozen=True, kw_only=True):
    """The newest jobs first."""

    jobs: tuple[ms.JobFacts, ...]


def document() -> dict[str, Any]:
    """Return the document; its schemas are generated from the messages."""
    _, schemas = msgspec.json.schema_components(
        (
            ms.JobFacts,
            JobListSchema,
            ms.JobOptions,
            ms.Event,
            ms.StatsInfo,
            ms.OperateInfo,
            OperateRequest,
            Transcript,
            CuesResponse,
            WaveformResponse,
            VideoResponse,
            EditRequest,
            VersionsResponse,
            DiffResponse,
            ConflictSchema,
            ErrorSchema,
        ),
        ref_template="#/components/schemas/{name}",
    )
    for schema in schemas.values():
        if "properties" not in schema:
            continue  # an Enum
        for name in _PROTOCOL_FIELDS:
            schema["properties"].pop(name, None)
        schema["required"] = [name for name in schema.get("required", ()) if name not in _PROTOCOL_FIELDS]
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
    lists = {"formats": get_args(Format), "tasks": get_args(ms.Task), "flags": get_args(ms.Flag)}
    separate = {*lists, "translate_to", "vad", "layout"}
    option_params = [_query(name, schema) for name, schema in options.items() if name not in separate]
    option_params += [
        _query(name, {"type": "array", "items": {"enum": list(values)}}) for name, values in lists.items()
    ]
    languages = {"type": "array", "items": {"type": "string"}}
    option_params.append(_query("translate_to", languages, _LANGUAGES))
    option_params.append(
        _json_query("options", "JobOptions", "All options as JSON; the other parameters take precedence")
    )
    after = "Only entries after this id; EventSource sends it as Last-Event-ID when it reconnects"
    return {
        "/api/jobs": {
            "get": _operation(
                "List the newest jobs.",
                {200: _json("JobListSchema")},
                _query("state", {"type": "array", "items": {"enum": [state.value for state in JobState]}}),
                _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
                _query("tag", {"type": "string"}),
                errors=(400,),
            ),
            "post": {
                **_operation(
                    "Submit a media file. The query parameters may also be form fields.",
                    {201: _json("JobFacts")},
                    _query(
                        "url",
                        {"type": "string"},
                        "An address to download instead of a body; its host must be allowed",
                    ),
                    _query("name", {"type": "string"}, "The file's name; default: the name in the form"),
                    *option_params,
                    errors=(400, 408, 413, 429, 507),
                ),
                "requestBody": {"required": True, "content": _media()},
            },
        },
        "/api/jobs/{job}": {
            "get": _operation("Get a job.", {200: _json("JobFacts")}, job, errors=(404,)),
            "delete": _operation(
                "Cancel a job, or delete an ended one.",
                {200: _json("JobFacts")},
                job,
                _query("delete", {"type": "boolean"}, "Delete the ended job with its results."),
                errors=(404, 409),
            ),
        },
        "/api/jobs/{job}/retry": {
            "post": _operation("Retry a failed job.", {200: _json("JobFacts")}, job, errors=(404, 409)),
        },
        "/api/jobs/{job}/dismiss": {
            "post": _operation(
                "Dismiss the failure of a job: the web page no longer reports it.",
                {200: _json("JobFacts")},
                job,
                errors=(404, 409),
            ),
        },
        "/api/jobs/{job}/translate": {
            "post": _operation(
                "Translate a job's subtitles; only sentences that are not translated yet.",
                {200: _json("JobFacts")},
                job,
                _query("to", languages, f"{_LANGUAGES}; default: those of the job"),
                _query(
                    "model",
                    {"type": "string", "maxLength": 200},
                    "Model that translates; default: the first one that covers both languages",
                ),
                _query("is_retry", _FLAG, "Translate again the sentences that could not be translated"),
                errors=(400, 404, 409),
            ),
        },
        "/api/jobs/{job}/events": {
            "get": _operation(
                "Stream a job's journal until the job ends; entries are Event, the last event `end` is JobFacts.",
                {
                    200: {"description": "Server-sent events", "content": {"text/event-stream": {}}},
                    204: {"description": "The job has ended and has no more entries"},
                },
                job,
                _query("after", {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, after),
                _query(
                    "text",
                    {"type": "boolean", "default": False},
                    "Also provisional cues, as events named `text`",
                ),
                errors=(400, 404),
            ),
        },
        "/api/jobs/{job}/result": {
            "get": _operation(
                "Get a job's subtitles; of a failed job, the finished part.",
                {200: {"description": "The file", "content": _files()}},
                job,
                _query("format", {"enum": list(get_args(Format)), "default": "srt"}),
                _query("task", _TASKS, _TASK),
                _query("language", {"type": "string", "maxLength": 64}, "The translation into this language"),
                _query("is_bilingual", _FLAG, "With `language`: the original below the translation"),
                _query("version", _VERSION, "A saved version; 0: the model's; default: the newest"),
                _json_query("layout", "LayoutOptions", _LAYOUT),
                errors=(400, 404, 409, 429),
            ),
        },
        "/api/jobs/{job}/cues": {
            "get": _operation(
                "Get a job's cues with the confidence of each word.",
                {200: _json("CuesResponse")},
                job,
                _query("task", _TASKS, _TASK),
                _query("language", {"type": "string", "maxLength": 64}, "The translation into this language"),
                _query("version", _VERSION, "A saved version; 0: the model's; default: the newest"),
                _json_query("layout", "LayoutOptions", _LAYOUT),
                errors=(400, 404, 409, 429),
            ),
            "put": {
                **_operation(
                    "Save edited cues as a new version. After a conflict, nothing is saved.",
                    {200: _json("VersionsResponse"), 409: _json("ConflictSchema")},
                    job,
                    _query("task", _TASKS, _TASK),
                    errors=(400, 404, 413, 429, 507),
                ),
                "requestBody": {"required": True, "content": _json_content("EditRequest")},
            },
        },
        "/api/jobs/{job}/cues/versions": {
            "get": _operation(
                "List the saved versions of a job's cues.",
                {200: _json("VersionsResponse")},
                job,
                _query("task", _TASKS, _TASK),
                errors=(400, 404),
            ),
        },
        "/api/jobs/{job}/cues/diff": {
            "get": _operation(
                "Compare two versions of a job's cues.",
                {200: _json("DiffResponse")},
                job,
                _query("before", _VERSION, "Default: 0, the model's"),
                _query("after", _VERSION, "Default: the newest"),
                _query("task", _TASKS, _TASK),
                errors=(400, 404, 409, 429),
            ),
        },
        "/api/jobs/{job}/waveform": {
            "get": _operation(
                "Get the waveform of a job's audio.", {200: _json("WaveformResponse")}, job, errors=(404, 409)
            ),
        },
        "/api/jobs/{job}/audio": {
            method: _operation(
                summary,
                {
                    200: {"description": "A WAV file", "content": {"audio/wav": {}}},
                    206: {"description": "A range of its bytes", "content": {"audio/wav": {}}},
                    416: {"description": "Range not satisfiable"},
                },
                job,
                _RANGE,
                errors=(404, 409, 413, 429, 500),
            )
            for method, summary in (("get", "Get a job's audio."), ("head", "Get the size of a job's audio."))
        },
        "/api/jobs/{job}/video": {
            "get": _operation(
                "Get facts about the picture of a job's file.",
                {200: _json("VideoResponse")},
                job,
                errors=(404, 409, 429, 500),
            ),
        },
        "/api/jobs/{job}/video/original": {
            "get": _operation(
                "Get a job's file, if browsers play it.",
                {
                    200: {"description": "The file", "content": _video_content},
                    206: {"description": "A range of its bytes", "content": _video_content},
                    416: {"description": "Range not satisfiable"},
                },
                job,
                _RANGE,
                errors=(404, 409, 415, 429, 500),
            ),
        },
        "/api/jobs/{job}/video/segments/{number}": {
            "get": _operation(
                "Get a segment of a job's picture, encoded for browsers.",
                {200: {"description": "A file whose times begin at 0", "content": _video_content}},
                job,
                {
                    "name": "number",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "integer", "minimum": 0, "maximum": MAX_SEGMENT},
                },
                _query("form", {"enum": list(SEGMENT_TYPES)}, "Default: h264"),
                errors=(400, 404, 409, 429, 500),
            ),
        },
        "/api/stats": {"get": _operation("Get workers, queue and speed.", {200: _json("StatsInfo")})},
        "/api/operate": {
            "get": _operation(
                "Get disks, retention, log level and the log's last lines; for admins.",
                {200: _json("OperateInfo")},
                _query("log_lines", {"type": "integer", "minimum": 0, "maximum": 1000}, "Lines to return."),
                _query("log_level", {"enum": list(get_args(ms.LogLevelName))}, "Only this level or above."),
                _query("log_text", {"type": "string", "maxLength": 200}, "Only lines with this text."),
                errors=(400,),
            ),
            "post": {
                **_operation(
                    "Pause or resume the queue, set the log level, load or unload a model; for admins.",
                    {200: _json("OperateInfo")},
                    errors=(400, 404, 408, 409, 413),
                ),
                "requestBody": {"required": True, "content": _json_content("OperateRequest")},
            },
        },
    }


def _operation(
    summary: str, responses: dict[int, Any], *parameters: dict[str, Any], errors: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Return one operation; each may also return 401, 403 and 503."""
    responses = responses | {status: _json("ErrorSchema") for status in (*errors, 401, 403, 503)}
    return {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {str(status): response for status, response in sorted(responses.items())},
    }


def _query(name: str, schema: dict[str, Any], description: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "schema": schema,
        "description": description or schema.get("description", ""),
    }


def _json_query(name: str, struct: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "content": _json_content(struct)}


def _json(name: str) -> dict[str, Any]:
    return {"description": name, "content": _json_content(name)}


def _json_content(struct: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{struct}"}}}


def _files() -> dict[str, Any]:
    """Return the content of a result: text, or JSON with the whole transcript."""
    files: dict[str, Any] = {media_type_of(form): {"schema": {"type": "string"}} for form in get_args(Format)}
    return {**files, media_type_of("json"): {"schema": {"$ref": "#/components/schemas/Transcript"}}}


def _media() -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"file": file}, "required": ["file"]}
    return {"multipart/form-data": {"schema": form}, "application/octet-stream": {"schema": file}}
