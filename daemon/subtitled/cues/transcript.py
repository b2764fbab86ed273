"""Everything that is known about one finished file, as it is stored in JSON."""

from __future__ import annotations

from msgspec import Struct

from subtitled.cues.layout import Cue
from subtitled.cues.phrases import Placed

VERSION = 1
"""Counts up when a field changes its meaning; a new field with a default does not change it."""


class Interval(Struct, frozen=True):
    """From `start_ms` to `end_ms` of media time."""

    start_ms: int
    end_ms: int


class Absence(Struct, frozen=True):
    """A stretch of media time that has no text, though it held sound, with the reason."""

    start_ms: int
    end_ms: int
    cause: str


class SegmentTranscript(Struct, frozen=True, kw_only=True):
    """What the model saw at once, what it made of it."""

    index: int
    pieces: tuple[Interval, ...]
    """The runs of real audio that were laid end to end."""
    spans: tuple[Interval, ...]
    """The speech in them."""
    device: str
    attempts: int = 1
    timings_ms: dict[str, int] = {}
    """How long each step took, by its name."""
    language: str | None = None
    language_probability: float | None = None
    no_speech_prob: float = 0.0
    temperature: float = 0.0
    """Of the last decoding; above 0 it was decoded again because the result looked wrong."""
    fallbacks: int = 0
    phrases: tuple[Placed, ...] = ()


class Transcript(Struct, frozen=True, kw_only=True):
    """One media file, from its name to its cues; all times in milliseconds of media time."""

    version: int = VERSION
    source: str
    """The file's name."""
    duration_ms: int
    offset_ms: int = 0
    """Start time of the audio stream, contained in all times."""
    language: str | None = None
    language_probability: float | None = None
    task: str
    chinese: str = "off"
    """Where Chinese text is written as it is now: "tw", "hk", "cn"; "off": as the model has it."""
    model: str
    devices: tuple[str, ...] = ()
    segments: tuple[SegmentTranscript, ...] = ()
    skipped: tuple[Absence, ...] = ()
    """Speech too short to be decoded."""
    missing: tuple[Absence, ...] = ()
    """Speech that could not be decoded; empty unless the job failed."""
    cues: tuple[Cue, ...] = ()

    @property
    def output_language(self) -> str | None:
        """The language that the subtitles are in: a translation is always English."""
        if self.language is None:
            return None
        return "en" if self.task == "translate" else self.language
