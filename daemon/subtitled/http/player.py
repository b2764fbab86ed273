"""The player's interface: cues with word confidence, waveform, audio and picture of a job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import cast, get_args

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from subtitle.messages import LayoutOptions, Task, VideoForm
from subtitled.config.layout_limits import LayoutLimits
from subtitled.cues.render import read_json
from subtitled.cues.transcript import MissingSpan
from subtitled.cues.word_alignment import AlignedCue, align_words
from subtitled.http.errors import RequestError, not_allowed
from subtitled.http.gateway import Gateway
from subtitled.http.response_formats import UNDETERMINED, json_response
from subtitled.http.wav import (
    BYTES_PER_SAMPLE,
    HEADER_BYTES,
    MAX_DATA_BYTES,
    SAMPLE_RATE,
    ByteRange,
    parse_range,
    wav_header,
)

BYTES_PER_MS = SAMPLE_RATE * BYTES_PER_SAMPLE // 1000
CHUNK_DURATIONS_MS = (2_000, 4_000, 8_000, 16_000)
"""Audio decoded per request to the daemon, the last value repeated: playback starts early, and stops with the reader."""
FILE_CHUNK_BYTES = 2**19
"""Bytes of a file per request to the daemon."""
ORIGINAL_TYPES = ("video/mp4", "video/webm")
SEGMENT_TYPES = {"h264": "video/mp4", "vp8": "video/webm"}
"""Media type by form."""
SEGMENT_AGE_S = 3600
"""A browser may keep a segment for this time: those of a job do not change."""
MAX_SEGMENT = 2**31
NO_LIMITS = LayoutLimits(
    max_chars=0, max_lines=0, max_chars_per_s=0, min_ms=0, max_ms=0, gap_ms=0, chain_ms=0
)


class CuesResponse(Struct, frozen=True, kw_only=True):
    """A job's cues, in order and not overlapping; times in milliseconds from the start of the media."""

    language: str
    """Language of the text; "und" without speech."""
    duration_ms: int
    """Length of the audio."""
    offset_ms: int
    """Start of the audio."""
    is_partial: bool
    """The job has failed; the cues cover what was transcribed."""
    limits: LayoutLimits
    """Limits that the cues were laid out with; 0 means no limit."""
    fast_cues: int
    """Cues that exceed the reading speed limit because the speech is fast."""
    cues: tuple[AlignedCue, ...]
    missing: tuple[MissingSpan, ...]
    """Speech that could not be decoded."""
    unheard: tuple[MissingSpan, ...]
    """Speech for which the model gave no text."""
    damaged: tuple[tuple[float, float], ...]
    """Where audio of the file is lost, in seconds."""
    version: int
    """The saved version of the cues; 0: the model's."""
    author: str
    """Who saved it."""
    saved_ms: int
    """When, in Unix time; 0 for the model's."""


class VideoResponse(Struct, frozen=True, kw_only=True):
    """The picture of a job's file."""

    width: int
    """Width and height as they are shown; 0 without a picture."""
    height: int
    media_type: str
    """Of `video/original`, with its codec; "" if browsers do not play the file: `video/segments` shows it."""
    segment_ms: int
    """Length of a segment."""
    cause: str
    """Why the picture of a file that has one cannot be shown."""


class WaveformResponse(Struct, frozen=True, kw_only=True):
    """The loudness of a job's audio."""

    interval_ms: int
    offset_ms: int
    """Start of the audio."""
    audio_ms: int
    """Length of the audio."""
    peaks: bytes
    """In base64, one byte for each interval: 0 for silence, 255 for full scale."""


def routes() -> list[Route]:
    """Return the interface's routes."""
    return [
        Route("/api/jobs/{job}/cues", _cues, methods=["GET"]),
        Route("/api/jobs/{job}/waveform", _waveform, methods=["GET"]),
        Route("/api/jobs/{job}/audio", _audio, methods=["GET"]),
        Route("/api/jobs/{job}/video", _video, methods=["GET"]),
        Route("/api/jobs/{job}/video/original", _original_video, methods=["GET"]),
        Route("/api/jobs/{job}/video/segments/{number:int}", _video_segment, methods=["GET"]),
    ]


async def _cues(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    layout, task, version = parse_layout(request), parse_task(request), parse_version(request)
    facts, content = await gateway.retry_while_busy(
        gateway.client.subtitles,
        request.path_params["job"],
        "json",
        layout=layout,
        task=task,
        version=version,
        language=request.query_params.get("language", "")[:64],
    )
    # In a thread: a long file takes a second.
    body = await asyncio.to_thread(cues_json, content, facts.version)
    return Response(body, media_type="application/json")


async def _waveform(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    facts, peaks = await gateway.client.waveform(request.path_params["job"])
    waveform = WaveformResponse(
        interval_ms=facts.interval_ms, offset_ms=facts.offset_ms, audio_ms=facts.audio_ms, peaks=peaks
    )
    return json_response(waveform)


async def _audio(request: Request) -> Response:
    """Return a job's audio or a range of it, decoded while it is read."""
    gateway: Gateway = request.app.state.gateway
    job: str = request.path_params["job"]
    facts, _ = await gateway.retry_while_busy(gateway.client.audio, job, 0, 0)
    data_bytes = facts.total_samples * BYTES_PER_SAMPLE
    if data_bytes > MAX_DATA_BYTES:
        max_s = MAX_DATA_BYTES // BYTES_PER_SAMPLE // SAMPLE_RATE
        raise RequestError(
            413,
            "too_big",
            f"audio of {facts.total_samples // SAMPLE_RATE} s exceeds the limit of WAV ({max_s} s);"
            " use `GetAudio` of the client protocol",
        )
    return await _ranged(
        request,
        HEADER_BYTES + data_bytes,
        f'"{job}-{facts.total_samples}"',
        "audio/wav",
        lambda span: wav_chunks(gateway, job, span, data_bytes),
    )


async def _video(request: Request) -> Response:
    """Return the facts of a job's picture."""
    gateway: Gateway = request.app.state.gateway
    facts, _ = await gateway.retry_while_busy(gateway.client.video, request.path_params["job"])
    return json_response(msgspec.convert(facts, VideoResponse, from_attributes=True))


async def _original_video(request: Request) -> Response:
    """Return the file of a job or a range of it, if browsers play it."""
    gateway: Gateway = request.app.state.gateway
    job: str = request.path_params["job"]
    facts, _ = await gateway.retry_while_busy(gateway.client.video, job)
    if facts.media_type.partition(";")[0] not in ORIGINAL_TYPES:
        raise RequestError(
            415,
            "not_playable",
            f"job {job}: browsers do not play its file as it is; request /api/jobs/{job}/video/segments/0",
        )
    return await _ranged(
        request,
        facts.size,
        f'"{job}-{facts.size}"',
        facts.media_type.partition(";")[0],
        lambda span: _file_chunks(gateway, job, span),
    )


async def _video_segment(request: Request) -> Response:
    """Return one segment of a job's picture, encoded for browsers."""
    gateway: Gateway = request.app.state.gateway
    form = request.query_params.get("form", "h264")
    if form not in SEGMENT_TYPES:
        raise not_allowed("form", form, ", ".join(SEGMENT_TYPES))
    number = request.path_params["number"]
    if number > MAX_SEGMENT:
        raise not_allowed("number", str(number)[:100], f"0 to {MAX_SEGMENT}")
    _, segment = await gateway.retry_while_busy(
        gateway.client.video, request.path_params["job"], cast("VideoForm", form), number
    )
    headers = {"Cache-Control": f"private, max-age={SEGMENT_AGE_S}"}
    return Response(segment, headers=headers, media_type=SEGMENT_TYPES[form])


async def _ranged(
    request: Request,
    size: int,
    etag: str,
    media_type: str,
    open_chunks: Callable[[ByteRange], AsyncGenerator[bytes, None]],
) -> Response:
    """Return a file of `size` bytes, or the range of it that the request's header selects."""
    headers = {"Accept-Ranges": "bytes", "ETag": etag, "Cache-Control": "private, no-cache"}
    is_current = request.headers.get("if-range", etag) == etag
    requested = parse_range(request.headers.get("range"), size) if is_current else None
    if requested is not None and requested.start == requested.end:
        headers["Content-Range"] = f"bytes */{size}"
        return Response(status_code=416, headers=headers, media_type=media_type)
    span = requested or ByteRange(0, size)
    headers["Content-Length"] = str(span.end - span.start)
    if requested is not None:
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{size}"
    status = 206 if requested is not None else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    chunks = open_chunks(span)
    # The first chunk is read before the status line is sent: an error there still gets its own status.
    first = await anext(chunks)
    return StreamingResponse(_chain(first, chunks), status, headers, media_type)


async def _file_chunks(gateway: Gateway, job: str, span: ByteRange) -> AsyncGenerator[bytes, None]:
    """Yield a range of the bytes of a job's file."""
    position = span.start
    while position < span.end:
        _, chunk = await gateway.retry_while_busy(
            gateway.client.video, job, "original", position, min(FILE_CHUNK_BYTES, span.end - position)
        )
        if not chunk:
            raise RequestError(
                500, "internal", f"job {job}: the file is shorter than its size of {span.end} bytes"
            )
        yield chunk
        position += len(chunk)


async def wav_chunks(
    gateway: Gateway, job: str, span: ByteRange, data_bytes: int
) -> AsyncGenerator[bytes, None]:
    """Yield a range of the bytes of a job's WAV file."""
    head = wav_header(data_bytes)[span.start : span.end]
    position = span.start + len(head)
    if position == span.end:
        yield head
    durations_ms = iter(CHUNK_DURATIONS_MS)
    duration_ms = 0
    while position < span.end:
        duration_ms = next(durations_ms, duration_ms)
        start_ms, skipped = divmod(position - HEADER_BYTES, BYTES_PER_MS)
        needed_ms = min(duration_ms, -(-(skipped + span.end - position) // BYTES_PER_MS))
        _, samples = await gateway.retry_while_busy(gateway.client.audio, job, start_ms, needed_ms)
        chunk = samples[skipped : skipped + span.end - position]
        if not chunk:
            raise RequestError(500, "internal", f"job {job}: the audio is shorter than its declared length")
        yield head + chunk
        head = b""
        position += len(chunk)


async def _chain(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk


def cues_json(content: bytes, version: int) -> bytes:
    """Return a CuesResponse in JSON for a job's result in JSON."""
    transcript = read_json(content)
    edit = transcript.edit
    phrases = (phrase for segment in transcript.segments for phrase in segment.phrases)
    cues = align_words(transcript.cues, phrases)
    if transcript.translation is not None:  # its words have no probabilities
        cues = tuple(msgspec.structs.replace(cue, confidence=1.0) for cue in cues)
    return msgspec.json.encode(
        CuesResponse(
            language=transcript.output_language or UNDETERMINED,
            duration_ms=transcript.duration_ms,
            offset_ms=transcript.offset_ms,
            is_partial=bool(transcript.missing),
            limits=transcript.limits or NO_LIMITS,
            fast_cues=transcript.fast_cues,
            cues=cues,
            missing=transcript.missing,
            unheard=transcript.unheard,
            damaged=transcript.damaged,
            version=version,
            author=edit.author if edit else "",
            saved_ms=edit.saved_ms if edit else 0,
        )
    )


def parse_layout(request: Request) -> LayoutOptions | None:
    """Parse the query parameter `layout`, None without it; raises RequestError."""
    text = request.query_params.get("layout")
    if text is None:
        return None
    try:
        options = msgspec.json.decode(text, type=dict[str, object])
        if unknown := sorted(options.keys() - set(LayoutOptions.__struct_fields__)):
            allowed = ", ".join(LayoutOptions.__struct_fields__)
            raise _invalid_layout(f"unknown field {unknown[0][:100]!r} ({allowed})")
        return msgspec.convert(options, LayoutOptions)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeEncodeError) as error:
        raise _invalid_layout(str(error)[:300]) from None


def parse_task(request: Request) -> Task | None:
    """Parse the query parameter `task`, None without it; raises RequestError."""
    text = request.query_params.get("task")
    task: Task | None = next((name for name in get_args(Task) if name == text), None)
    if text is not None and task is None:
        raise not_allowed("task", text, ", ".join(get_args(Task)))
    return task


def parse_version(request: Request, name: str = "version") -> int | None:
    """Parse the number of a saved version of the cues, None without it; raises RequestError."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text) <= 2**62):
        raise not_allowed(name, text, "0, the model's, or a saved version")
    return int(text)


def _invalid_layout(cause: str) -> RequestError:
    message = f'layout: {cause}; send LayoutOptions as JSON, such as {{"max_chars": 32}}'
    return RequestError(400, "bad_format", message, param="layout")
