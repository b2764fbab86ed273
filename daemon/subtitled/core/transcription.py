"""What the model made of a segment: phrases with their words, and the decisions taken on the way."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class Word(Struct, frozen=True):
    """One word as the model heard it, with the space before it; times count as those of its phrase."""

    text: str
    start_ms: int
    end_ms: int
    probability: float


class Phrase(Struct, frozen=True):
    """What the model returned: text from `start_ms` to `end_ms` of segment time, with its finite scores."""

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
    """The result looked wrong, and the window was decoded once more, at a higher temperature."""
    SILENCE = "silence"
    """Nobody speaks in the window: what the model said was dropped."""
    LOOP = "loop"
    """The text said one thing again and again, and still did after the last fallback: it was cut to the first time."""


class DecodingDecision(Struct, frozen=True, kw_only=True):
    """One decision about one window of a segment."""

    verdict: DecisionKind
    cause: str
    """The measure that called for it: "compression_ratio", "log_prob", "no_speech_prob", "repetition"."""
    temperature: float
    """Of the decoding that followed a fallback; else of the one that was dropped or cut."""
