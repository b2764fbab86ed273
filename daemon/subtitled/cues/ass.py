r"""Cues as Advanced SubStation Alpha, styled for a picture of 1920 x 1080.

Braces hold commands in this format, and players disagree on how to escape one: only libass reads `\{`.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from subtitled.cues.text_formats import WORD_JOINER, centiseconds, visible_cues

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from subtitled.core.transcription import Word
    from subtitled.cues.layout import Cue

_BRACES = str.maketrans({"{": "\uff5b", "}": "\uff5d"})
"""Full-width braces: visible in every player; most players hide the text after a plain one."""
_COMMAND = re.compile(r"\\(?=[Nnh])")
_MAX_SKIPPED_WORDS = 50
"""Words that may be skipped to find the first word of a cue."""

# Text is 5 % of the height, as in television; white with a black outline; karaoke colours spoken words yellow.
_HEAD = """\
[Script Info]
ScriptType: v4.00+
PlayResX: 1920
PlayResY: 1080
WrapStyle: 0
ScaledBorderAndShadow: yes
YCbCr Matrix: None

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, \
Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, \
MarginV, Encoding
Style: Default,Arial,60,&H00FFFFFF,&H00FFFFFF,&H00000000,&H80000000,0,0,0,0,100,100,0,0,1,3,1,2,96,96,54,1
Style: Karaoke,Arial,60,&H0000FFFF,&H00FFFFFF,&H00000000,&H80000000,0,0,0,0,100,100,0,0,1,3,1,2,96,96,54,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def ass(cues: Iterable[Cue], words: Sequence[Word] = ()) -> str:
    """Return `cues` as ASS, to the hundredth of a second.

    With the `words` of all cues, in order and in media time, each word is coloured when it is spoken (karaoke); a cue that
    the words do not spell stays plain.
    """
    rows = list(visible_cues(cues))
    matched = _words_per_cue((lines for _, lines in rows), words)
    return _HEAD + "".join(
        _event(cue, lines, found) for (cue, lines), found in zip(rows, matched, strict=True)
    )


def _event(cue: Cue, lines: tuple[str, ...], words: tuple[Word, ...]) -> str:
    style = "Karaoke" if words else "Default"
    text = _karaoke(cue, lines, words) if words else _verbatim("\n".join(lines))
    return f"Dialogue: 0,{_time(cue.start_ms)},{_time(cue.end_ms)},{style},,0,0,0,,{text}\n"


def _verbatim(text: str) -> str:
    """Return `text`, escaped so that players show it verbatim, line by line."""
    plain = _COMMAND.sub(lambda found: found[0] + WORD_JOINER, text.translate(_BRACES))
    return plain.replace("\n", r"\N")


def _words_per_cue(rows: Iterable[tuple[str, ...]], words: Sequence[Word]) -> Iterator[tuple[Word, ...]]:
    """Yield for the lines of each cue the words that spell them; none if no words do."""
    # The cues contain all words in order, but a word may be split between two cues, or be missing.
    at = 0
    for lines in rows:
        text = "".join("".join(lines).split())
        found: tuple[Word, ...] = ()
        for start in range(at, min(len(words), at + _MAX_SKIPPED_WORDS + 1)):
            end, spelt = start, ""
            while end < len(words) and len(spelt) < len(text) and text.startswith(spelt):
                spelt += "".join(words[end].text.split())
                end += 1
            if spelt == text:
                found, at = tuple(words[start:end]), end
                break
        yield found


def _karaoke(cue: Cue, lines: tuple[str, ...], words: tuple[Word, ...]) -> str:
    r"""Return the lines with `{\k…}` before each word: its length in hundredths of a second."""
    first, last = centiseconds(cue.start_ms), centiseconds(cue.end_ms)
    starts: list[int] = []
    for word in words:
        starts.append(min(max(centiseconds(word.start_ms), starts[-1] if starts else first), last))
    lead = rf"{{\k{starts[0] - first}}}" if starts[0] > first else ""
    text = "\n".join(lines)
    out, at = lead, 0
    for word, (start, end) in zip(words, pairwise([*starts, last]), strict=True):
        upto, letters = at, len("".join(word.text.split()))
        while letters:
            letters -= not text[upto].isspace()
            upto += 1
        out += rf"{{\k{end - start}}}" + _verbatim(text[at:upto])
        at = upto
    return out


def _time(time_ms: int) -> str:
    """Return H:MM:SS.cc; hours may have more digits, which libass and VSFilter accept."""
    seconds, cs = divmod(centiseconds(time_ms), 100)
    minutes, s = divmod(seconds, 60)
    h, m = divmod(minutes, 60)
    return f"{h}:{m:02d}:{s:02d}.{cs:02d}"
