"""A job's stored rows to its transcript."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from subtitle.messages import LayoutOptions
from subtitled.asr.dual_task import ENGLISH
from subtitled.config.layout_limits import overrides_of
from subtitled.core.plan import Span
from subtitled.core.protocol import Media, SegmentResult
from subtitled.core.records import Job, Options
from subtitled.core.states import SegmentState
from subtitled.cues.hallucination_filter import HallucinationRules, remove_hallucinations
from subtitled.cues.phrases import MediaPhrase, to_media_time
from subtitled.cues.transcript import Interval, MissingSpan, SegmentTranscript, Transcript, with_cues
from subtitled.output import chinese
from subtitled.output.hallucination_phrases import rules_for
from subtitled.storage.rows import JobRow, ResultRow

SAMPLES_PER_MS = 16

_result_decoder = msgspec.msgpack.Decoder(SegmentResult)
_media_decoder = msgspec.msgpack.Decoder(Media)


def compose_all(row: JobRow, results: Sequence[ResultRow], *, model: str) -> tuple[Transcript, ...]:
    """Return the transcripts of a job's file: of what was said, and where it was asked for, of its translation.

    A file in English is its own translation.
    """
    said = compose(row, results, model=model)
    if not row.job.options.is_translated_too or said.language in {None, ENGLISH}:
        return (said,)
    return said, compose(row, results, model=model, is_translation=True)


def compose(
    row: JobRow,
    results: Sequence[ResultRow],
    *,
    model: str,
    layout: LayoutOptions | None = None,
    is_translation: bool = False,
) -> Transcript:
    """Return all that is known about a job's file, with the cues of what is finished.

    They are laid out as the job asks, or by `layout`; with `is_translation` they are those of its second decoding.
    Segments without a result are listed as missing, with their causes.
    """
    job = row.job
    media = _media_decoder.decode(row.media) if row.media else Media()
    offset = media.offset_samples
    segments: list[SegmentTranscript] = []
    missing: list[MissingSpan] = []
    for found in results:
        if found.result is None or found.state not in {SegmentState.DONE, SegmentState.SKIPPED}:
            cause = found.cause or "not transcribed"
            missing += [_absence(span, offset, cause) for span in found.plan.spans]
            continue
        result = _result_decoder.decode(found.result)
        is_other = is_translation and result.translation is not None
        phrases = (result.translation or ()) if is_other else result.phrases
        placed = to_media_time(phrases, found.plan.pieces, found.plan.spans, offset)
        segments.append(_segment(found, result, placed, offset))
    transcript = Transcript(
        source=source_name(job),
        duration_ms=media.decoded_samples // SAMPLES_PER_MS,
        offset_ms=offset // SAMPLES_PER_MS,
        language=_language(job.language or job.options.language, segments),
        language_probability=job.language_probability or None,
        task="translate" if is_translation else job.options.task,
        model=model,
        devices=tuple(sorted({segment.device for segment in segments})),
        segments=tuple(segments),
        skipped=tuple(_absence(skip.span, offset, skip.cause) for skip in media.skipped),
        missing=tuple(missing),
    )
    said = _as_asked(transcript, job.options)
    wanted = layout or job.options.layout
    return with_cues(said, wanted.profile, overrides_of(wanted))


def source_name(job: Job) -> str:
    """Return the name of a job's file, without its folder."""
    return Path(os.fsdecode(job.source)).name


def _as_asked(transcript: Transcript, options: Options) -> Transcript:
    """Return `transcript` without what nobody said, its Chinese as it is to be written."""

    def rules(language: str | None) -> HallucinationRules:
        spoken = "en" if transcript.task == "translate" else language
        return rules_for(spoken, is_unsaid_dropped=options.drop_unsaid, are_marks_kept=options.marks)

    segments, removed = remove_hallucinations(transcript.segments, rules)
    said = msgspec.structs.replace(transcript, segments=segments, removed=removed)
    # The configuration asks for no conversion without the package; an old job may, after it was removed.
    return chinese.in_variant(said, options.chinese) if chinese.is_installed() else said


def _language(settled: str, segments: Iterable[SegmentTranscript]) -> str | None:
    """Return the file's language: the settled or forced one, else the one of most of its segments."""
    if settled not in {"auto", "multi"}:
        return settled
    spoken = [segment.language for segment in segments if segment.phrases and segment.language]
    return max(sorted(set(spoken)), key=spoken.count) if spoken else None


def _segment(
    found: ResultRow, result: SegmentResult, placed: tuple[MediaPhrase, ...], offset: int
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


def _absence(span: Span, offset: int, cause: str) -> MissingSpan:
    interval = _interval(span, offset)
    return MissingSpan(interval.start_ms, interval.end_ms, cause)
