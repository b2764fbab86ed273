"""What differs between two versions of a job's cues."""

from __future__ import annotations

from difflib import SequenceMatcher
from itertools import chain
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from subtitled.cues.layout import Cue
from subtitled.cues.text import units
from subtitled.cues.text_formats import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


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
    matcher = SequenceMatcher(None, keys_before, keys_after, autojunk=False)
    changes: list[CueChange] = []
    for kind, begin, end, start, stop in matcher.get_opcodes():
        if kind == "equal":
            pairs = zip(before[begin:end], after[start:stop], strict=True)
            changes += (_change(old, new) for old, new in pairs if old != new)
        else:
            changes += _replaced(before[begin:end], after[start:stop])
    return tuple(changes)


def _replaced(before: Sequence[Cue], after: Sequence[Cue]) -> Iterator[CueChange]:
    """Yield the changes of cues with other texts: those that overlap in time are one cue that was changed."""
    old, new = list(before), list(after)
    while old and new:
        if old[0].end_ms <= new[0].start_ms:
            yield _change(old.pop(0), None)
        elif new[0].end_ms <= old[0].start_ms:
            yield _change(None, new.pop(0))
        else:
            yield _change(old.pop(0), new.pop(0))
    yield from (_change(cue, None) for cue in old)
    yield from (_change(None, cue) for cue in new)


def _change(before: Cue | None, after: Cue | None) -> CueChange:
    return CueChange(before=before, after=after, parts=tuple(_parts(_text(before), _text(after))))


def _text(cue: Cue | None) -> str:
    return one_line(cue.lines) if cue is not None else ""


def _parts(before: str, after: str) -> Iterator[DiffPart]:
    old, new = units(before), units(after)
    old_keys, new_keys = ([word.strip() for word in side] for side in (old, new))
    matcher = SequenceMatcher(None, old_keys, new_keys, autojunk=False)
    for kind, begin, end, start, stop in matcher.get_opcodes():
        if kind == "equal":
            yield DiffPart("same", "".join(new[start:stop]))
            continue
        if removed := "".join(chain(old[begin:end])):
            yield DiffPart("removed", removed)
        if added := "".join(chain(new[start:stop])):
            yield DiffPart("added", added)
