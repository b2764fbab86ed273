"""Placed phrases to cues that a viewer can read."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from typing import TYPE_CHECKING

from msgspec import Struct

from subtitled.cues.phrases import Placed, Word, spell
from subtitled.cues.text import clean, columns, cut, is_mostly_wide, units, weight

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NEAR_MS = 1000
"""A phrase without time of its own joins a neighbour at most so far away."""


class Limits(Struct, frozen=True):
    """What fits on the screen at once: Netflix Timed Text Style Guides, English and Chinese (16 characters)."""

    lines: int = 2
    columns: int = 42
    wide_columns: int = 32
    """Columns of a line of mostly full-width characters, each of which takes two."""


class Cue(Struct, frozen=True):
    """What the viewer reads from `start_ms` to `end_ms` of media time; at least one line, none of them blank."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


class _Block(Struct, frozen=True):
    """Cleaned text that follows the block before it without overlapping."""

    text: str
    start_ms: int
    end_ms: int
    words: tuple[Word, ...] = ()


def layout(phrases: Iterable[Placed], limits: Limits | None = None) -> tuple[Cue, ...]:
    """Return the cues of one file's phrases: in order, never overlapping, within `limits`, no word lost.

    A phrase longer than a cue becomes several, which share its time by its words or else by characters.
    Each cue stays within its phrase's time; where phrases overlap, the earlier one ends when the later
    begins. A phrase that has no time joins its neighbour, or stays a cue whose end is its start.
    """
    limits = limits or Limits()
    return tuple(cue for block in _joined(_trimmed(phrases)) for cue in _cues(block, limits))


def _trimmed(phrases: Iterable[Placed]) -> Iterator[_Block]:
    """Yield what is left of each phrase when its text is cleaned, its end cut to the next one's start."""
    waiting: _Block | None = None
    for phrase in sorted(phrases, key=lambda phrase: phrase.start_ms):
        text = clean(phrase.text)
        if not text:
            continue
        if waiting is not None:
            yield _Block(waiting.text, waiting.start_ms, min(waiting.end_ms, phrase.start_ms), waiting.words)
        spells = spell(phrase.words) == "".join(text.split())
        end_ms = max(phrase.start_ms, phrase.end_ms)
        waiting = _Block(text, phrase.start_ms, end_ms, phrase.words if spells else ())
    if waiting is not None:
        yield waiting


def _joined(blocks: Iterable[_Block]) -> Iterator[_Block]:
    """Yield `blocks` with those that have no time joined to the one before or after, where one is near."""
    last: _Block | None = None
    for block in blocks:
        if last is None:
            last = block
        elif (_has_time(last) and _has_time(block)) or block.start_ms - last.end_ms > _NEAR_MS:
            yield last
            last = block
        else:
            timed = block if _has_time(block) else last
            last = _Block(f"{last.text} {block.text}", timed.start_ms, timed.end_ms)
    if last is not None:
        yield last


def _has_time(block: _Block) -> bool:
    return block.start_ms < block.end_ms


def _cues(block: _Block, limits: Limits) -> Iterator[Cue]:
    """Yield the cues of one block, its lines dealt out in order."""
    lines = _lines(block.text, limits.wide_columns if is_mostly_wide(block.text) else limits.columns)
    groups = [lines[at : at + limits.lines] for at in range(0, len(lines), limits.lines)]
    clock = _Clock(block)
    said = 0
    for group in groups:
        until = said + sum(weight(line) for line in group)
        yield Cue(clock.start_ms(said), clock.end_ms(until), group)
        said = until


def _lines(text: str, limit: int) -> tuple[str, ...]:
    """Return `text` in the fewest lines of at most `limit` columns, as even as greedy filling makes them."""
    parts = [part for unit in units(text) for part in cut(unit, limit)]
    widths = [(columns(part), columns(part.strip())) for part in parts]
    fewest = len(_filled(widths, limit))
    # The spaces at the ends of lines are in the sum, but take no columns: it may come out above the limit.
    narrowest = min(limit, max(-(-columns(text) // fewest), *(width for _, width in widths), 0))
    # A wider line never makes more lines.
    at = bisect_left(range(narrowest, limit), x=-fewest, key=lambda width: -len(_filled(widths, width)))
    starts = _filled(widths, narrowest + at)
    return tuple("".join(parts[one:two]).strip() for one, two in pairwise([*starts, len(parts)]))


def _filled(widths: list[tuple[int, int]], limit: int) -> list[int]:
    """Return which parts begin a line; each is as wide as it is within a line, then as it is at its start."""
    starts = [0]
    taken = 0
    for at, (inner, first) in enumerate(widths):
        if at > starts[-1] and taken + inner > limit:
            starts.append(at)
            taken = 0
        taken += inner if at > starts[-1] else first
    return starts


class _Clock:
    """Tells when the nth character of a block is said: by its words, or else in even time."""

    def __init__(self, block: _Block) -> None:
        self._block = block
        self._total = weight(block.text)
        self._starts: list[int] = []
        self._ends: list[int] = []
        for word in block.words:
            length_ms = max(0, word.end_ms - word.start_ms)
            for at in range(count := weight(word.text)):
                self._starts.append(self._clamped(word.start_ms + length_ms * at // count))
                self._ends.append(self._clamped(word.start_ms + length_ms * (at + 1) // count))

    def start_ms(self, said: int) -> int:
        """Return when the character after the first `said` begins."""
        if said == 0:
            return self._block.start_ms
        return self._starts[said] if self._starts else self._even(said)

    def end_ms(self, said: int) -> int:
        """Return when the last of the first `said` characters is over."""
        if said == self._total:
            return self._block.end_ms
        return self._ends[said - 1] if self._ends else self._even(said)

    def _even(self, said: int) -> int:
        return self._block.start_ms + (self._block.end_ms - self._block.start_ms) * said // self._total

    def _clamped(self, time_ms: int) -> int:
        earliest = self._ends[-1] if self._ends else self._block.start_ms
        return min(max(time_ms, earliest), self._block.end_ms)
