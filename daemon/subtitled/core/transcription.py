"""The model's result for a segment: phrases with their words, and the decoding decisions.

The bounds are checked wherever a result is decoded: a worker on another host may send anything.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from msgspec import Meta, Struct

Score = Annotated[float, Meta(ge=-1000.0, le=1000.0)]
"""A finite score of the model."""
Probability = Annotated[float, Meta(ge=0.0, le=1.01)]
"""Rounding may lead slightly above 1."""
Temperature = Annotated[float, Meta(ge=0.0, le=2.0)]
SegmentMs = Annotated[int, Meta(ge=-600_000, le=600_000)]
"""A time in a segment; the model may return times outside of it."""
WordMs = Annotated[int, Meta(ge=-600_000, le=2**42)]
"""Milliseconds of segment time; in a transcript, of media time."""


class Word(Struct, frozen=True):
    """One word of the model, with the space before it; times as in its phrase."""

    text: Annotated[str, Meta(max_length=1000)]
    start_ms: WordMs
    end_ms: WordMs
    probability: Probability


class Phrase(Struct, frozen=True):
    """Text of the model from `start_ms` to `end_ms` of segment time, with its finite scores."""

    text: Annotated[str, Meta(max_length=10_000)]
    start_ms: SegmentMs
    end_ms: SegmentMs
    words: Annotated[tuple[Word, ...], Meta(max_length=2000)] = ()
    """Joined they are the text; empty where words were not timed."""
    avg_logprob: Score = 0.0
    compression_ratio: Score = 0.0
    no_speech_prob: Probability = 0.0
    temperature: Temperature = 0.0
    language: Annotated[str, Meta(max_length=10)] = ""
    """Whisper's code, where it is not that of its segment."""


class DecisionKind(Enum):
    """The kinds of decision."""

    FALLBACK = "fallback"
    """The result looked wrong; the window was decoded again at a higher temperature."""
    SILENCE = "silence"
    """There is no speech in the window; the text was dropped."""
    LOOP = "loop"
    """The text repeated itself after the last fallback too; it was cut to the first repetition."""


class DecodingDecision(Struct, frozen=True, kw_only=True):
    """One decision about one window of a segment."""

    verdict: DecisionKind
    cause: str
    """The measure that led to it: "compression_ratio", "log_prob", "no_speech_prob", "repetition"."""
    temperature: Temperature
    """Temperature of the decoding after a fallback; else of the one that was dropped or cut."""
