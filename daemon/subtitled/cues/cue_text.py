"""What every format makes of a cue: its lines, its times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subtitled.cues.text import may_break, stands_alone

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from subtitled.cues.layout import Cue

WORD_JOINER = "\u2060"
"""Takes no room and breaks no line: put inside what a parser takes for markup, it leaves plain text."""


def shown(cues: Iterable[Cue]) -> Iterator[tuple[Cue, tuple[str, ...]]]:
    """Yield each cue that shows anything with its lines: single spaces, none of them blank."""
    for cue in cues:
        lines = tuple(text for line in cue.lines if (text := " ".join(line.split())))
        if lines:
            yield cue, lines


def one_line(lines: Iterable[str]) -> str:
    """Return `lines` as one, with a space between them where their script has any."""
    joined = ""
    for line in lines:
        joined += f" {line}" if joined and not _may_touch(joined[-1], line[:1]) else line
    return joined


def clock(time_ms: int, decimal: str) -> str:
    """Return `time_ms` (0 or more) as HH:MM:SS with milliseconds after `decimal`; hours have two digits or more."""
    seconds, ms = divmod(time_ms, 1000)
    minutes, s = divmod(seconds, 60)
    h, m = divmod(minutes, 60)
    return f"{h:02d}:{m:02d}:{s:02d}{decimal}{ms:03d}"


def _may_touch(last: str, first: str) -> bool:
    """Say whether a line may end between the two in running text: Chinese and Japanese have no spaces."""
    return may_break(last, first) and (stands_alone(last) or stands_alone(first))
