"""A job's stored rows to its transcript."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from subtitled.backend import Media, SegmentResult
from subtitled.core.plan import Span
from subtitled.core.states import SegmentState
from subtitled.cues.limits import Profile, overrides_of
from subtitled.cues.phrases import Placed, place
from subtitled.cues.transcript import Absence, Interval, SegmentTranscript, Transcript, with_cues
from subtitled.rows import JobRow, ResultRow

SAMPLES_PER_MS = 16

_result_decoder = msgspec.msgpack.Decoder(SegmentResult)
_media_decoder = msgspec.msgpack.Decoder(Media)


def compose(
    row: JobRow,
    results: Sequence[ResultRow],
    *,
    model: str,
    profile: Profile | None = None,
) -> Transcript:
    """Return all that is known about a job's file, with the cues of what is finished, laid out as the job asks.

    Segments without a result are listed as missing, with their causes. `profile` replaces the job's own.
    """
    job = row.job
    media = _media_decoder.decode(row.media) if row.media else Media()
    offset = media.offset_samples
    segments: list[SegmentTranscript] = []
    missing: list[Absence] = []
    for found in results:
        if found.result is None or found.state not in {SegmentState.DONE, SegmentState.SKIPPED}:
            cause = found.cause or "not transcribed"
            missing += [_absence(span, offset, cause) for span in found.plan.spans]
            continue
        result = _result_decoder.decode(found.result)
        placed = place(result.phrases, found.plan.pieces, found.plan.spans, offset)
        segments.append(_segment(found, result, placed, offset))
    transcript = Transcript(
        source=Path(os.fsdecode(job.source)).name,
        duration_ms=media.decoded_samples // SAMPLES_PER_MS,
        offset_ms=offset // SAMPLES_PER_MS,
        language=_language(job.language or job.options.language, segments),
        language_probability=job.language_probability or None,
        task=job.options.task,
        model=model,
        devices=tuple(sorted({segment.device for segment in segments})),
        segments=tuple(segments),
        skipped=tuple(_absence(skip.span, offset, skip.cause) for skip in media.skipped),
        missing=tuple(missing),
    )
    return with_cues(transcript, profile or job.options.layout.profile, overrides_of(job.options.layout))


def _language(settled: str, segments: Iterable[SegmentTranscript]) -> str | None:
    """Return the file's language: the settled or forced one, else the one of most of its segments."""
    if settled not in {"auto", "multi"}:
        return settled
    spoken = [segment.language for segment in segments if segment.phrases and segment.language]
    return max(sorted(set(spoken)), key=spoken.count) if spoken else None


def _segment(
    found: ResultRow, result: SegmentResult, placed: tuple[Placed, ...], offset: int
) -> SegmentTranscript:
    pieces = (Span(piece.start, piece.start + piece.samples) for piece in found.plan.pieces)
    return SegmentTranscript(
        index=found.index,
        pieces=tuple(_interval(piece, offset) for piece in pieces),
        spans=tuple(_interval(span, offset) for span in found.plan.spans),
        device=found.worker.rpartition(".")[0],
        attempts=found.losses + 1,
        language=result.language or None,
        language_probability=result.language_probability,
        no_speech_prob=result.no_speech_prob,
        temperature=result.temperature,
        fallbacks=result.fallbacks,
        decisions=result.decisions,
        phrases=placed,
    )


def _interval(span: Span, offset: int) -> Interval:
    return Interval((span.start + offset) // SAMPLES_PER_MS, (span.end + offset) // SAMPLES_PER_MS)


def _absence(span: Span, offset: int, cause: str) -> Absence:
    interval = _interval(span, offset)
    return Absence(interval.start_ms, interval.end_ms, cause)
