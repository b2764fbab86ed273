"""Cues as SubRip text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from subtitled.cues.cue_text import WORD_JOINER, clock, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from subtitled.cues.layout import Cue

_ARROW = re.compile(r"-{2,}>")
_MARKUP = re.compile(r"<(?=\s*/?\s*[A-Za-z])|\{(?=\s*\\)|(?<=\d):(?=\d+:\d+[.,]\d)")


def srt(cues: Iterable[Cue]) -> str:
    r"""Return `cues` as SubRip text; "" where there are none.

    Players take `<i>` and `{\an8}` for markup, parsers an arrow or two times for a line of times: in a cue's
    text an invisible word joiner (U+2060) disarms tags and times, and an arrow of hyphens becomes U+2192.
    """
    return "\n".join(
        f"{number}\n{clock(cue.start_ms, ',')} --> {clock(cue.end_ms, ',')}\n{_verbatim(lines)}\n"
        for number, (cue, lines) in enumerate(shown(cues), 1)
    )


def _verbatim(lines: tuple[str, ...]) -> str:
    """Return a cue's lines so that players show what they say."""
    return _MARKUP.sub(lambda found: found[0] + WORD_JOINER, _ARROW.sub("\u2192", "\n".join(lines)))
