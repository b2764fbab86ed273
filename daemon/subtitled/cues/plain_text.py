"""Cues as formats of plain lines: TXT, TSV, LRC."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from subtitled.cues.cue_text import WORD_JOINER, one_line, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from subtitled.cues.layout import Cue

_LRC_TAG = re.compile(r"[\[<](?=[^\[\]<>]*:[^\[\]<>]*[\]>])")
"""What players take for a time or a tag: `[00:12.00]`, `[ar:Name]`, `<00:12.00>`."""


def txt(cues: Iterable[Cue]) -> str:
    """Return the text of `cues` without times, one cue a line."""
    return "".join(f"{one_line(lines)}\n" for _, lines in shown(cues))


def tsv(cues: Iterable[Cue]) -> str:
    """Return `cues` as Whisper's own TSV: start and end in milliseconds, and the text, under a line of names."""
    rows = (f"{cue.start_ms}\t{cue.end_ms}\t{one_line(lines)}\n" for cue, lines in shown(cues))
    return "start\tend\ttext\n" + "".join(rows)


def lrc(cues: Iterable[Cue]) -> str:
    """Return `cues` as LRC, to the hundredth of a second.

    The format has no ends: an empty line ends a cue that another does not follow at once. A text that looks
    like a tag is disarmed by an invisible word joiner (U+2060).
    """
    rows = [(cue, one_line(lines)) for cue, lines in shown(cues)]
    starts = [_centiseconds(cue.start_ms) for cue, _ in rows]
    out = ""
    for (cue, text), (start, following) in zip(rows, pairwise([*starts, None]), strict=True):
        out += f"[{_lrc_time(start or 0)}]{_LRC_TAG.sub(lambda found: found[0] + WORD_JOINER, text)}\n"
        end = _centiseconds(cue.end_ms)
        if following is None or end < following:
            out += f"[{_lrc_time(end)}]\n"
    return out


def _centiseconds(time_ms: int) -> int:
    return (time_ms + 5) // 10


def _lrc_time(centiseconds: int) -> str:
    """Return MM:SS.cc; minutes go on beyond an hour."""
    minutes, rest = divmod(centiseconds, 6000)
    return f"{minutes:02d}:{rest // 100:02d}.{rest % 100:02d}"
