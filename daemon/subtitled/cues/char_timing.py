"""When each character of a phrase is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subtitled.cues.text import weight

if TYPE_CHECKING:
    from subtitled.core.transcription import Word

_DOUBT_MS = 1000
"""A first or last word nearer to its phrase's edge is taken to reach it: the model's own edges are nearer to the truth, and the
alignment was up to 892 ms off them (`benchmarks/word_times.py`). One farther off is silence that the model took along."""


class CharTimes:
    """Tells when the nth column of a phrase's text, whitespace not counted, is said.

    By its words, whose times are kept within the phrase and never go back, and which refine the inside of a phrase, not its
    edges; or else in even time.
    """

    def __init__(self, text: str, start_ms: int, end_ms: int, words: tuple[Word, ...]) -> None:
        self._start_ms = start_ms
        self._end_ms = max(start_ms, end_ms)
        self._total = max(1, weight(text))
        self._starts: list[int] = []
        self._ends: list[int] = []
        for word in words:
            length_ms = max(0, word.end_ms - word.start_ms)
            for at in range(count := weight(word.text)):
                self._starts.append(self._clamped(word.start_ms + length_ms * at // count))
                self._ends.append(self._clamped(word.start_ms + length_ms * (at + 1) // count))
        if self._starts and self._starts[0] - self._start_ms < _DOUBT_MS:
            self._starts[0] = self._start_ms
        if self._ends and self._end_ms - self._ends[-1] < _DOUBT_MS:
            self._ends[-1] = self._end_ms

    def start_ms(self, said: int) -> int:
        """Return when the column after the first `said` begins."""
        return self._starts[min(said, len(self._starts) - 1)] if self._starts else self._even(said)

    def end_ms(self, said: int) -> int:
        """Return when the last of the first `said` columns is over."""
        return self._ends[max(said, 1) - 1] if self._ends else self._even(said)

    def _even(self, said: int) -> int:
        return self._start_ms + (self._end_ms - self._start_ms) * said // self._total

    def _clamped(self, time_ms: int) -> int:
        earliest = self._ends[-1] if self._ends else self._start_ms
        return min(max(time_ms, earliest), self._end_ms)
