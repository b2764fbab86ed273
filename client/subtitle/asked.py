"""What is asked of a job; docs/protocol.md specifies it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class VadOptions(Struct, frozen=True, kw_only=True):
    """What one job wants otherwise in finding speech; None leaves the server's own setting."""

    threshold: Annotated[float, Meta(gt=0, lt=1)] | None = None
    min_silence_ms: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    pad_ms: Annotated[int, Meta(ge=0, le=2_000)] | None = None


class LayoutOptions(Struct, frozen=True, kw_only=True):
    """What one job wants otherwise in its cues; None leaves the profile's own limit for the language."""

    profile: Literal["default", "strict", "raw"] = "default"
    max_chars: Annotated[int, Meta(ge=8, le=200)] | None = None
    """Characters of a line."""
    max_lines: Annotated[int, Meta(ge=1, le=4)] | None = None
    max_chars_per_s: Annotated[float, Meta(gt=0, le=100)] | None = None
    min_ms: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    max_ms: Annotated[int, Meta(ge=500, le=60_000)] | None = None
    gap_ms: Annotated[int, Meta(ge=0, le=2_000)] | None = None
    """Time between two cues."""
    chain_ms: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    """Cues nearer than this are closed up to `gap_ms`."""


WordTimestamps = bool | Literal["auto"]
"""Whether words get times of their own; "auto": where a phrase is more than one cue can hold."""


class JobOptions(Struct, frozen=True, kw_only=True):
    """What is asked of one job."""

    language: Annotated[str, Meta(max_length=32)] = "auto"
    """Whisper's code, "auto" (one language a file, by vote) or "multi" (each segment its own)."""
    task: Literal["transcribe", "translate"] = "transcribe"
    formats: Annotated[tuple[Annotated[str, Meta(max_length=16)], ...], Meta(max_length=16)] = ("srt",)
    """What the client means to fetch; any of the server's formats can be fetched all the same."""
    word_timestamps: WordTimestamps = "auto"
    initial_prompt: Annotated[str, Meta(max_length=1_000)] = ""
    """Text that the model takes as what was said before each segment: names, spelling, style."""
    hotwords: Annotated[str, Meta(max_length=1_000)] = ""
    """Words that the model should expect."""
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    vad: VadOptions = VadOptions()
    layout: LayoutOptions = LayoutOptions()
    tag: Annotated[str, Meta(max_length=200)] = ""
    """The client's own note; comes back in JobFacts."""
