"""Times of the characters of a phrase, and of cues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from subtitled.cues.text import time_weight

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from subtitled.config.layout_limits import LayoutLimits
    from subtitled.core.transcription import Word

_EDGE_TOLERANCE_MS = 1000
"""A first or last word closer than this to the edge of its phrase is extended to the edge: the model's timestamps are more accurate,
and the alignment was up to 892 ms off (`benchmarks/word_times.py`). A larger distance is silence inside the phrase."""


class CharTimes:
    """Maps columns of a phrase's text, whitespace not counted, to times.

    By the times of its words, limited to the phrase and in order; without words, in even time. Words refine the inside of a
    phrase, not its edges.
    """

    def __init__(self, text: str, start_ms: int, end_ms: int, words: tuple[Word, ...]) -> None:
        self._start_ms = start_ms
        self._end_ms = max(start_ms, end_ms)
        self._total = max(1, time_weight(text))
        self._starts: list[int] = []
        self._ends: list[int] = []
        for word in words:
            length_ms = max(0, word.end_ms - word.start_ms)
            for at in range(count := time_weight(word.text)):
                self._starts.append(self._clamped(word.start_ms + length_ms * at // count))
                self._ends.append(self._clamped(word.start_ms + length_ms * (at + 1) // count))
        if self._starts and self._starts[0] - self._start_ms < _EDGE_TOLERANCE_MS:
            self._starts[0] = self._start_ms
        if self._ends and self._end_ms - self._ends[-1] < _EDGE_TOLERANCE_MS:
            self._ends[-1] = self._end_ms

    def start_ms(self, before: int) -> int:
        """Return when the column after the first `before` begins."""
        return self._starts[min(before, len(self._starts) - 1)] if self._starts else self._even(before)

    def end_ms(self, until: int) -> int:
        """Return when the first `until` columns end."""
        return self._ends[max(until, 1) - 1] if self._ends else self._even(until)

    def _even(self, at: int) -> int:
        return self._start_ms + (self._end_ms - self._start_ms) * at // self._total

    def _clamped(self, time_ms: int) -> int:
        earliest = self._ends[-1] if self._ends else self._start_ms
        return min(max(time_ms, earliest), self._end_ms)


class SpokenInterval(Struct, frozen=True):
    """The lines of a cue, and when they are spoken."""

    lines: tuple[str, ...]
    start_ms: int
    end_ms: int
    columns: int
    limits: LayoutLimits
    columns_per_char: int


def reading_ms(columns: int, columns_per_char: int, limits: LayoutLimits) -> int:
    """Return the least time in which a cue of `columns` can be read."""
    if not limits.max_chars_per_s:
        return limits.min_ms
    per_1000_s = round(limits.max_chars_per_s * columns_per_char * 1000)
    return max(limits.min_ms, -(-columns * 1_000_000 // per_1000_s))


def cue_times(cues: Sequence[SpokenInterval], until_ms: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each cue: from its first word until it can have been read.

    A cue that is too short to read extends into the silence after it; one that ends within `chain_ms` of the next extends to
    `gap_ms` before it. No cue is longer than `max_ms` or, if possible, ends after `until_ms`. If speech leaves no time between
    two cues, the later one starts late: cues never overlap and are never empty.
    """
    earliest = 0
    for cue, following in zip(cues, [*cues[1:], None], strict=False):
        limits = cue.limits
        start = max(cue.start_ms, earliest)
        latest = _earliest(
            start + limits.max_ms if limits.max_ms else None,
            following.start_ms - limits.gap_ms if following else until_ms,
        )
        end = max(cue.end_ms, start + reading_ms(cue.columns, cue.columns_per_char, limits))
        if latest is not None:
            is_near = following is not None and following.start_ms - end < limits.chain_ms
            end = latest if is_near else min(end, latest)
        end = max(end, start + max(1, limits.gap_ms))
        yield start, end
        earliest = end + limits.gap_ms


def _earliest(*times_ms: int | None) -> int | None:
    known = [time_ms for time_ms in times_ms if time_ms is not None]
    return min(known) if known else None
