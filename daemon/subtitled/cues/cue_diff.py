"""What differs between two versions of a job's cues."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher
from itertools import chain, takewhile
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from subtitled.cues.layout import Cue
from subtitled.cues.text import units
from subtitled.cues.text_formats import one_line

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

MAX_STEPS = 50_000_000
"""Steps of a comparison at worst: measured, 3.4 s. The words of 3,000 usual cues that all differ take 1 % of them."""


class DiffPart(Struct, frozen=True):
    """A part of a cue's text in one version, or in both."""

    kind: Literal["same", "removed", "added"]
    text: str


class CueChange(Struct, frozen=True, kw_only=True):
    """A cue that was changed, removed (`after` is None) or added (`before` is None)."""

    before: Cue | None
    after: Cue | None
    parts: tuple[DiffPart, ...]
    """The text of both; one "same" part if only times differ."""


def cue_changes(before: Sequence[Cue], after: Sequence[Cue]) -> tuple[CueChange, ...]:
    """Return the changes from `before` to `after`, in order of time. Cues with equal text are the same cue, wherever it is."""
    keys_before, keys_after = (
        [(cue.channel, one_line(cue.lines)) for cue in cues] for cues in (before, after)
    )
    pairs: list[tuple[Cue | None, Cue | None]] = []
    for kind, begin, end, start, stop in _Comparison().opcodes(keys_before, keys_after):
        if kind == "equal":
            pairs += zip(before[begin:end], after[start:stop], strict=True)
        else:
            pairs += _replaced(before[begin:end], after[start:stop])
    words = _Comparison()
    return tuple(_change(old, new, words) for old, new in pairs if old != new)


class _Comparison:
    """Compares sequences until it has used MAX_STEPS; from then on, those that differ have only their ends in common.

    A legal edit may repeat one word thousands of times, which SequenceMatcher compares in cubic time.
    """

    def __init__(self) -> None:
        self._left = MAX_STEPS

    def opcodes(
        self, before: Sequence[Hashable], after: Sequence[Hashable]
    ) -> Iterator[tuple[str, int, int, int, int]]:
        """Yield what SequenceMatcher.get_opcodes returns."""
        least = min(len(before), len(after))
        head = _common(before, after)
        tail = min(_common(before[::-1], after[::-1]), least - head)
        old, new = before[head : len(before) - tail], after[head : len(after) - tail]
        if head:
            yield "equal", 0, head, 0, head
        counts = Counter(new)
        steps = sum(counts[key] for key in old) * min(len(old), len(new))
        if steps <= self._left:
            self._left -= steps
            for kind, begin, end, start, stop in SequenceMatcher(
                None, old, new, autojunk=False
            ).get_opcodes():
                yield kind, begin + head, end + head, start + head, stop + head
        else:
            yield "replace", head, len(before) - tail, head, len(after) - tail
        if tail:
            yield "equal", len(before) - tail, len(before), len(after) - tail, len(after)


def _common(before: Sequence[Hashable], after: Sequence[Hashable]) -> int:
    """Return how many first items are equal."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))
    return sum(1 for _ in pairs)


def _replaced(before: Sequence[Cue], after: Sequence[Cue]) -> Iterator[tuple[Cue | None, Cue | None]]:
    """Yield pairs of cues with other texts: those that overlap in time are one cue that was changed."""
    old, new = list(before), list(after)
    while old and new:
        if old[0].end_ms <= new[0].start_ms:
            yield old.pop(0), None
        elif new[0].end_ms <= old[0].start_ms:
            yield None, new.pop(0)
        else:
            yield old.pop(0), new.pop(0)
    yield from ((cue, None) for cue in old)
    yield from ((None, cue) for cue in new)


def _change(before: Cue | None, after: Cue | None, words: _Comparison) -> CueChange:
    return CueChange(before=before, after=after, parts=tuple(_parts(_text(before), _text(after), words)))


def _text(cue: Cue | None) -> str:
    return one_line(cue.lines) if cue is not None else ""


def _parts(before: str, after: str, words: _Comparison) -> Iterator[DiffPart]:
    old, new = units(before), units(after)
    old_keys, new_keys = ([word.strip() for word in side] for side in (old, new))
    for kind, begin, end, start, stop in words.opcodes(old_keys, new_keys):
        if kind == "equal":
            yield DiffPart("same", "".join(new[start:stop]))
            continue
        if removed := "".join(chain(old[begin:end])):
            yield DiffPart("removed", removed)
        if added := "".join(chain(new[start:stop])):
            yield DiffPart("added", added)
