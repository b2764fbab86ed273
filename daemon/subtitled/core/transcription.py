"""The model's result for a segment: phrases with their words, and the decoding decisions."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class Word(Struct, frozen=True):
    """One word of the model, with the space before it; times as in its phrase."""

    text: str
    start_ms: int
    end_ms: int
    probability: float


class Phrase(Struct, frozen=True):
    """Text of the model from `start_ms` to `end_ms` of segment time, with its finite scores."""

    text: str
    start_ms: int
    end_ms: int
    words: tuple[Word, ...] = ()
    """Joined they are the text; empty where words were not timed."""
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0
    temperature: float = 0.0


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
    temperature: float
    """Of the decoding after a fallback; else of the one that was dropped or cut."""
