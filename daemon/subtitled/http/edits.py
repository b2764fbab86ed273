"""The editor's interface: save a job's cues, list and compare the saved versions."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from subtitle.errors import ServerError
from subtitle.messages import CueVersion, EditedCue
from subtitled.cues.cue_diff import CueChange, cue_changes
from subtitled.cues.render import read_json
from subtitled.http.errors import RequestError, error_body, to_request_error
from subtitled.http.forms import read_body
from subtitled.http.gateway import Gateway
from subtitled.http.player import parse_task, parse_version
from subtitled.http.response_formats import json_response

MAX_BODY_BYTES = 5 * 2**20
"""The daemon's limit of 4 MiB for the cues, and room for white space."""


class EditRequest(Struct, frozen=True, kw_only=True):
    """Edited cues, or a version to restore."""

    version: Annotated[int, Meta(ge=0, le=2**62)]
    """The version that the cues were made from: the newest, else nothing is saved."""
    cues: tuple[EditedCue, ...] | None = None
    """All cues of the job; omitted with `restore`."""
    restore: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    """Save this version again; 0: the model's."""
    author: Annotated[str, Meta(max_length=100)] = ""
    """Name of the person, shown with the version."""
    draft_session: Annotated[str, Meta(max_length=64)] = ""
    """Saved automatically by the editing session of this random id: replaces the session's previous draft if that was begun
    less than 5 minutes ago."""


class VersionsResponse(Struct, frozen=True, kw_only=True):
    """The saved versions of a job's cues."""

    version: int
    """The newest; 0 if there is none."""
    versions: tuple[CueVersion, ...]
    """Newest first, without version 0."""


class DiffResponse(Struct, frozen=True, kw_only=True):
    """What differs between two versions."""

    before: int
    after: int
    changes: tuple[CueChange, ...]


def routes() -> list[Route]:
    """Return the interface's routes."""
    return [
        Route("/api/jobs/{job}/cues", _save, methods=["PUT"]),
        Route("/api/jobs/{job}/cues/versions", _versions, methods=["GET"]),
        Route("/api/jobs/{job}/cues/diff", _diff, methods=["GET"]),
    ]


async def _save(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    job, task = request.path_params["job"], parse_task(request)
    edit = await asyncio.to_thread(_parse, await read_body(request, MAX_BODY_BYTES, "edit"))
    client = gateway.client
    try:
        if edit.cues is not None:
            versions = await gateway.retry_while_busy(
                client.save_cues,
                job,
                edit.cues,
                version=edit.version,
                task=task,
                author=edit.author,
                draft_session=edit.draft_session,
            )
        else:
            restored = edit.restore or 0
            versions = await gateway.retry_while_busy(
                client.restore_cues, job, restored, version=edit.version, task=task, author=edit.author
            )
    except ServerError as error:
        if error.code != "CONFLICT":
            raise
        current = _response(await gateway.client.cue_versions(job, task=task))
        body = error_body(request.scope["path"], to_request_error(error))
        return json_response({**body, **msgspec.to_builtins(current)}, status=409)
    return json_response(_response(versions))


async def _versions(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    task = parse_task(request)
    return json_response(_response(await gateway.client.cue_versions(request.path_params["job"], task=task)))


async def _diff(request: Request) -> Response:
    """Compare version `before` (default: 0, the model's) with `after` (default: the newest)."""
    gateway: Gateway = request.app.state.gateway
    job, task = request.path_params["job"], parse_task(request)
    versions = (parse_version(request, "before") or 0, parse_version(request, "after"))
    (before, old), (after, new) = [
        await gateway.retry_while_busy(gateway.client.subtitles, job, "json", task=task, version=version)
        for version in versions
    ]

    def changes() -> Response:
        changed = cue_changes(read_json(old).cues, read_json(new).cues)
        return json_response(DiffResponse(before=before.version, after=after.version, changes=changed))

    # In a thread: long files take a second.
    return await asyncio.to_thread(changes)


def _parse(content: bytes) -> EditRequest:
    try:
        edit = msgspec.json.decode(content, type=EditRequest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(400, "bad_format", f"the body is not an edit in JSON: {error}") from None
    if (edit.cues is None) is (edit.restore is None):
        raise RequestError(400, "bad_format", "send either `cues` or `restore`", param="cues")
    return edit


def _response(versions: tuple[CueVersion, ...]) -> VersionsResponse:
    return VersionsResponse(version=versions[0].version if versions else 0, versions=versions)
