"""What was decided about a window's text beyond taking what the model said first."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class Verdict(Enum):
    """The kinds of decision."""

    FALLBACK = "fallback"
    """The result looked wrong, and the window was decoded once more, at a higher temperature."""
    SILENCE = "silence"
    """Nobody speaks in the window: what the model said was dropped."""
    LOOP = "loop"
    """The text said one thing again and again, and still did after the last fallback: it was cut to the first time."""


class Decision(Struct, frozen=True, kw_only=True):
    """One decision about one window of a segment."""

    verdict: Verdict
    cause: str
    """The measure that called for it: "compression_ratio", "log_prob", "no_speech_prob", "repetition"."""
    temperature: float
    """Of the decoding that followed a fallback; else of the one that was dropped or cut."""
