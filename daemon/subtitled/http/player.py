"""What the player of a job loads over HTTP: cues with their words, waveform, audio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from subtitle.messages import LayoutOptions
from subtitled.config.layout_limits import LayoutLimits
from subtitled.cues.render import read_json
from subtitled.cues.transcript import MissingSpan
from subtitled.cues.word_alignment import AlignedCue, align_words
from subtitled.http.errors import RequestError
from subtitled.http.gateway import Gateway
from subtitled.http.wav import (
    BYTES_PER_SAMPLE,
    HEADER_BYTES,
    MAX_DATA_BYTES,
    SAMPLE_RATE,
    ByteRange,
    asked_range,
    header,
)

_WAV = "audio/wav"
BYTES_PER_MS = SAMPLE_RATE * BYTES_PER_SAMPLE // 1000
PIECES_MS = (2_000, 4_000, 8_000, 16_000)
"""What is asked of the daemon at once, the last again and again: the first sound comes soon, and who stops reading stops the rest."""
NO_LIMITS = LayoutLimits(
    max_chars=0, max_lines=0, max_chars_per_s=0, min_ms=0, max_ms=0, gap_ms=0, chain_ms=0
)


class CuesResponse(Struct, frozen=True, kw_only=True):
    """A job's cues, in order and never overlapping; times in milliseconds from the media's start."""

    language: str | None
    """Of the text."""
    duration_ms: int
    """Length of the audio."""
    offset_ms: int
    """When the audio begins."""
    is_partial: bool
    """The job has failed: these are the cues of what was finished."""
    limits: LayoutLimits
    """What the cues were made within; 0 is no limit."""
    fast_cues: int
    """How many must be read faster than the limit, because they were spoken so fast."""
    cues: tuple[AlignedCue, ...]
    missing: tuple[MissingSpan, ...]
    """Speech that could not be decoded."""


class WaveformResponse(Struct, frozen=True, kw_only=True):
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
        Route("/api/jobs/{job}/audio", _audio, methods=["GET"]),
    ]


async def _cues(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    _, content = await gateway.subtitles(request.path_params["job"], "json", layout_of(request))
    # A long file is a second of Python.
    return Response(await asyncio.to_thread(_cues_of, content), media_type="application/json")


async def _waveform(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    answer, peaks = await gateway.client.waveform(request.path_params["job"])
    waveform = WaveformResponse(
        interval_ms=answer.interval_ms, offset_ms=answer.offset_ms, audio_ms=answer.audio_ms, peaks=peaks
    )
    return Response(msgspec.json.encode(waveform), media_type="application/json")


async def _audio(request: Request) -> Response:
    """Answer with all of a job's audio or a range of it, decoded as it is read; a HEAD with how much there is."""
    gateway: Gateway = request.app.state.gateway
    job: str = request.path_params["job"]
    answer, _ = await gateway.listen(job, 0, 0)
    data_bytes = answer.total_samples * BYTES_PER_SAMPLE
    if data_bytes > MAX_DATA_BYTES:
        raise RequestError(
            413,
            "too_big",
            f"{answer.total_samples // SAMPLE_RATE} s of audio; a WAV file holds {MAX_DATA_BYTES // BYTES_PER_SAMPLE // SAMPLE_RATE} s:"
            " use `GetAudio` of the client protocol",
        )
    size = HEADER_BYTES + data_bytes
    etag = f'"{job}-{answer.total_samples}"'
    wanted = None
    if request.headers.get("if-range", etag) == etag:
        wanted = asked_range(request.headers.get("range"), size)
    headers = {"Accept-Ranges": "bytes", "ETag": etag, "Cache-Control": "private, no-cache"}
    if wanted is not None and wanted.start == wanted.end:
        return Response(
            status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"}, media_type=_WAV
        )
    span = wanted or ByteRange(0, size)
    headers["Content-Length"] = str(span.end - span.start)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{size}"
    status = 206 if wanted is not None else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=_WAV)
    pieces = pieces_of(gateway, job, span, data_bytes)
    # What cannot be decoded at all is told before anything is sent.
    first = await anext(pieces)
    return StreamingResponse(_resumed(first, pieces), status, headers, _WAV)


async def pieces_of(
    gateway: Gateway, job: str, span: ByteRange, data_bytes: int
) -> AsyncGenerator[bytes, None]:
    """Yield a span of the bytes of a job's WAV file."""
    head = header(data_bytes)[span.start : span.end]
    at = span.start + len(head)
    if at == span.end:
        yield head
    lengths_ms = iter(PIECES_MS)
    length_ms = 0
    while at < span.end:
        length_ms = next(lengths_ms, length_ms)
        start_ms, skipped = divmod(at - HEADER_BYTES, BYTES_PER_MS)
        wanted_ms = min(length_ms, -(-(skipped + span.end - at) // BYTES_PER_MS))
        _, samples = await gateway.listen(job, start_ms, wanted_ms)
        piece = samples[skipped : skipped + span.end - at]
        if not piece:
            raise RequestError(500, "internal", f"job {job}: its audio ended before its length")
        yield head + piece
        head = b""
        at += len(piece)


async def _resumed(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


def _cues_of(content: bytes) -> bytes:
    transcript = read_json(content)
    phrases = (phrase for segment in transcript.segments for phrase in segment.phrases)
    return msgspec.json.encode(
        CuesResponse(
            language=transcript.output_language,
            duration_ms=transcript.duration_ms,
            offset_ms=transcript.offset_ms,
            is_partial=bool(transcript.missing),
            limits=transcript.limits or NO_LIMITS,
            fast_cues=transcript.fast_cues,
            cues=align_words(transcript.cues, phrases),
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
