"""The transcript of one media file, as it is stored in JSON."""

from __future__ import annotations

from itertools import chain, groupby
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from subtitle.messages import AudioChoice, LayoutOptions
from subtitled.config.layout_limits import PROFILE_LIMITS, LayoutLimits, limits_for
from subtitled.core.transcription import DecodingDecision
from subtitled.cues.layout import Cue, LayoutPart, fast_cues, layout_parts
from subtitled.cues.phrases import MediaPhrase

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1
"""Increases when a field changes its meaning; a new field with a default does not change it."""


class Interval(Struct, frozen=True):
    """From `start_ms` to `end_ms` of media time."""

    start_ms: int
    end_ms: int


class MissingSpan(Struct, frozen=True):
    """A stretch of media time with sound but without text, with the reason."""

    start_ms: int
    end_ms: int
    cause: str


class RemovedPhrase(Struct, frozen=True, kw_only=True):
    """Text of the model that the cues leave out, with the reason and the scores of the model."""

    start_ms: int
    end_ms: int
    text: str
    cause: str
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0


class SegmentTranscript(Struct, frozen=True, kw_only=True):
    """One segment, which the model decoded at once, with its result.

    A segment with speech in several languages has an entry of the same index for each run of phrases in one language.
    """

    index: int
    pieces: tuple[Interval, ...]
    """The runs of real audio that were joined."""
    spans: tuple[Interval, ...]
    """The speech in the pieces."""
    device: str
    attempts: int = 1
    timings_ms: dict[str, int] = {}
    """Duration of each step, by name."""
    language: str | None = None
    language_probability: float | None = None
    no_speech_prob: float = 0.0
    temperature: float = 0.0
    """Temperature of the last decoding; above 0 it is a fallback, because the first result looked wrong."""
    fallbacks: int = 0
    decisions: tuple[DecodingDecision, ...] = ()
    """Why the text of a fallback was used, or none."""
    phrases: tuple[MediaPhrase, ...] = ()
    channel: str = ""
    """"left", "right" or "track 2", if channels or tracks of the file were transcribed separately."""


class TranscriptEdit(Struct, frozen=True, kw_only=True):
    """The saved version that a transcript's cues are from."""

    version: int
    saved_ms: int
    """Unix time."""
    author: str


class SentenceRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sentence of a translated transcript: its source, its translation, and what made it."""

    start_ms: int
    end_ms: int
    source: str
    text: str
    """The translation; the source if there is a `problem`, or if it needs no translation."""
    language: str = ""
    """Whisper's code of the source's language."""
    problem: str = ""
    """Why it is not translated."""
    warning: str = ""
    """What to check in the translation."""
    model: str = ""
    """Name of the translation model; "": the sentence is the same in both languages."""
    engine: str = ""
    """"ctranslate2" or "openai"."""
    version: str = ""
    """The model and its version."""
    channel: str = ""


class TranscriptTranslation(Struct, frozen=True, kw_only=True):
    """The sentences that a translated transcript's cues are from."""

    target: str
    """Tag of the language, for example "zh-TW"."""
    untranslated: int
    """Sentences that are shown in the original."""
    is_bilingual: bool = False
    """The cues show the original below the translation."""
    sentences: tuple[SentenceRecord, ...] = ()


class Transcript(Struct, frozen=True, kw_only=True):
    """One media file, from its name to its cues; all times in milliseconds of media time."""

    version: int = VERSION
    source: str
    """The file's name."""
    duration_ms: int
    offset_ms: int = 0
    """Start time of the audio stream, contained in all times."""
    audio: AudioChoice | None = None
    """The track and the mix that were transcribed, and the file's other tracks; None if an earlier release read it."""
    language: str | None = None
    language_probability: float | None = None
    task: str
    chinese: str = "off"
    """Characters of Chinese text: "tw", "hk", "cn", "tw+words", "cn+words"; "off": as the model wrote them."""
    model: str
    devices: tuple[str, ...] = ()
    segments: tuple[SegmentTranscript, ...] = ()
    skipped: tuple[MissingSpan, ...] = ()
    """Speech too short to be decoded."""
    missing: tuple[MissingSpan, ...] = ()
    """Speech that could not be decoded; empty unless the job failed."""
    unheard: tuple[MissingSpan, ...] = ()
    """Speech for which the model gave no text, also when it was decoded again."""
    damaged: tuple[tuple[float, float], ...] = ()
    """Where audio is known to be lost, because the file is damaged or cut: start and end in seconds."""
    removed: tuple[RemovedPhrase, ...] = ()
    """Text of the model that was most likely not spoken; no segment contains it now."""
    edit: TranscriptEdit | None = None
    """The version of a person's edit, which cues and phrases are from; None: they are the model's."""
    translation: TranscriptTranslation | None = None
    """The cues are translated from these sentences; None: they are not translated, or were by Whisper itself."""
    limits: LayoutLimits | None = None
    """The limits of the cues."""
    cues: tuple[Cue, ...] = ()
    fast_cues: int = 0
    """Cues that exceed the reading speed because they are spoken so fast and no silence follows."""

    @property
    def is_bilingual(self) -> bool:
        """The cues show two languages."""
        return self.translation is not None and self.translation.is_bilingual

    @property
    def output_language(self) -> str | None:
        """The language of the subtitles: that of its translation; Whisper's own is always English."""
        if self.translation is not None:
            return self.translation.target
        if self.language is None:
            return None
        return "en" if self.task == "translate" else self.language


def with_cues(transcript: Transcript, layout: LayoutOptions = PROFILE_LIMITS) -> Transcript:
    """Return `transcript` with its phrases laid out again as cues, within the limits of their language.

    In a file of several languages each segment is laid out by its own. Raises ValueError if `layout` contains limits that
    cannot be kept.
    """
    all_cues: list[Cue] = []
    fast = 0
    for channel in dict.fromkeys(segment.channel for segment in transcript.segments):
        segments = tuple(segment for segment in transcript.segments if segment.channel == channel)
        parts = [
            LayoutPart(phrases, limits_for(language, layout), language)
            for language, phrases in phrases_by_language(transcript, segments)
        ]
        cues = layout_parts(
            parts,
            speech=speech_intervals(segments),
            until_ms=transcript.offset_ms + transcript.duration_ms or None,
        )
        fast += sum(fast_cues(its, part.limits, part.language) for part, its in zip(parts, cues, strict=True))
        all_cues += (msgspec.structs.replace(cue, channel=channel) for cue in chain.from_iterable(cues))
    return msgspec.structs.replace(
        transcript,
        limits=limits_for(transcript.output_language, layout),
        cues=tuple(sorted(all_cues, key=lambda cue: cue.start_ms)),
        fast_cues=fast,
    )


def phrases_by_language(
    transcript: Transcript, segments: tuple[SegmentTranscript, ...]
) -> Iterator[tuple[str | None, tuple[MediaPhrase, ...]]]:
    """Yield the output language and the phrases of each run of phrases in one language, in order of time.

    Segments of other mixes lie between those of the chosen one.
    """
    whole = transcript.output_language
    spoken = [
        (whole if transcript.task == "translate" else segment.language or whole, phrase)
        for segment in segments
        for phrase in segment.phrases
    ]
    spoken.sort(key=lambda pair: pair[1].start_ms)
    for language, run in groupby(spoken, key=lambda pair: pair[0]):
        yield language, tuple(phrase for _, phrase in run)


def speech_intervals(segments: tuple[SegmentTranscript, ...]) -> tuple[tuple[int, int], ...]:
    """Return the intervals with speech, in order."""
    return tuple(sorted({(span.start_ms, span.end_ms) for segment in segments for span in segment.spans}))
