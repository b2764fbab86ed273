"""Cues as WebVTT (W3C, WebVTT: The Web Video Text Tracks Format)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subtitled.cues.cue_text import clock, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from subtitled.cues.layout import Cue

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""Section 4.2.2, cue text: with `>` escaped as well, no line of text holds an arrow."""


def vtt(cues: Iterable[Cue]) -> str:
    """Return `cues` as WebVTT; the header alone where there are none."""
    blocks = [
        f"{clock(cue.start_ms, '.')} --> {clock(cue.end_ms, '.')}\n" + "\n".join(lines).translate(_ESCAPES)
        for cue, lines in shown(cues)
    ]
    return "\n\n".join(["WEBVTT", *blocks]) + "\n"
