"""What a player of a job needs of it, over HTTP: its cues with what was heard in them, its waveform."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from subtitle.messages import LayoutOptions
from subtitled.cues.heard import HeardCue, heard
from subtitled.cues.limits import Limits
from subtitled.cues.render import read_json
from subtitled.cues.transcript import Absence
from subtitled.http.faults import RequestError
from subtitled.http.gateway import Gateway

NO_LIMITS = Limits(max_chars=0, max_lines=0, max_chars_per_s=0, min_ms=0, max_ms=0, gap_ms=0, chain_ms=0)


class Cues(Struct, frozen=True, kw_only=True):
    """A job's cues, in order and never overlapping; times in milliseconds from the media's start."""

    language: str | None
    """Of the text."""
    duration_ms: int
    """Length of the audio."""
    offset_ms: int
    """When the audio begins."""
    is_partial: bool
    """The job has failed: these are the cues of what was finished."""
    limits: Limits
    """What the cues were made within; 0 is no limit."""
    fast_cues: int
    """How many must be read faster than the limit, because they were spoken so fast."""
    cues: tuple[HeardCue, ...]
    missing: tuple[Absence, ...]
    """Speech that could not be decoded."""


class Waveform(Struct, frozen=True, kw_only=True):
    """How loud a job's audio is."""

    interval_ms: int
    offset_ms: int
    """When the audio begins."""
    audio_ms: int
    """Length of the audio."""
    peaks: bytes
    """In base64, one byte for each interval: 0 for silence, 255 for full scale."""


def routes() -> list[Route]:
    """Return the interface's routes."""
    return [
        Route("/api/jobs/{job}/cues", _cues, methods=["GET"]),
        Route("/api/jobs/{job}/waveform", _waveform, methods=["GET"]),
    ]


async def _cues(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    _, content = await gateway.subtitles(request.path_params["job"], "json", layout_of(request))
    # A long file is a second of Python.
    return Response(await asyncio.to_thread(_cues_of, content), media_type="application/json")


async def _waveform(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    answer, peaks = await gateway.client.waveform(request.path_params["job"])
    waveform = Waveform(
        interval_ms=answer.interval_ms, offset_ms=answer.offset_ms, audio_ms=answer.audio_ms, peaks=peaks
    )
    return Response(msgspec.json.encode(waveform), media_type="application/json")


def _cues_of(content: bytes) -> bytes:
    transcript = read_json(content)
    phrases = (phrase for segment in transcript.segments for phrase in segment.phrases)
    return msgspec.json.encode(
        Cues(
            language=transcript.output_language,
            duration_ms=transcript.duration_ms,
            offset_ms=transcript.offset_ms,
            is_partial=bool(transcript.missing),
            limits=transcript.limits or NO_LIMITS,
            fast_cues=transcript.fast_cues,
            cues=heard(transcript.cues, phrases),
            missing=transcript.missing,
        )
    )


def layout_of(request: Request) -> LayoutOptions | None:
    """Return what the parameter `layout` says, None where it is not given; raises RequestError."""
    text = request.query_params.get("layout")
    if text is None:
        return None
    try:
        options = msgspec.json.decode(text, type=dict[str, object])
        if unknown := sorted(options.keys() - set(LayoutOptions.__struct_fields__)):
            raise _fault(f"{unknown[0][:100]!r} is none of {', '.join(LayoutOptions.__struct_fields__)}")
        return msgspec.convert(options, LayoutOptions)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeEncodeError) as error:
        raise _fault(str(error)[:300]) from None


def _fault(why: str) -> RequestError:
    return RequestError(
        400,
        "bad_format",
        f'layout: {why}; it is LayoutOptions as JSON, such as {{"max_chars": 32}}',
        param="layout",
    )
