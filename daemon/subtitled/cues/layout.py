"""Cues from phrases: readable lines within limits."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import chain, repeat
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from subtitled.config.layout_limits import LayoutLimits, limits_for
from subtitled.cues import break_costs
from subtitled.cues.break_costs import BreakCost
from subtitled.cues.cjk import words
from subtitled.cues.optimizer import CueOptimizer, LayoutUnit
from subtitled.cues.phrases import MediaPhrase, spelling
from subtitled.cues.text import DASHES, clean, is_unspaced, slices, split_word, time_weight, units
from subtitled.cues.text_width import columns, columns_per_char
from subtitled.cues.timing import CharTimes, SpokenInterval, cue_times

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_MAX_WORDS_CHARS = 20_000
"""A longer phrase is not speech (Whisper writes 448 tokens at most in 30 s): it is cut into lines, not into words."""
_MAX_UNITS_PER_CUE = 64
_MAX_UNITS = 20_000
"""Maximum units that are laid out together: more than an hour of speech without a pause."""

_PAUSE_FACTOR = 1.4
"""Factor for the shortest pause that separates cues: shorter pauses stay inside a cue rather than cut a clause."""
_MIN_PAUSE_MS = 300


class Cue(Struct, frozen=True, omit_defaults=True):
    """Text shown from `start_ms` to `end_ms` of media time: one line or more, none blank."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]
    channel: str = ""
    """"left", "right" or "track 2", if channels or tracks of the file were transcribed separately: cues of both may overlap."""
    is_accepted: bool = False
    """A person has confirmed the words of which the model was uncertain."""


def layout(
    phrases: Iterable[MediaPhrase],
    limits: LayoutLimits | None = None,
    *,
    language: str | None = None,
    speech: Sequence[tuple[int, int]] = (),
    until_ms: int | None = None,
) -> tuple[Cue, ...]:
    """Return the cues of one file's phrases: in order, not overlapping, within `limits`, with every word.

    Times come from the words; without words they are shared out within a phrase by the width of its characters. If phrases
    overlap, the earlier one ends when the later one starts. `speech` are the intervals with sound, in order, if known: a word
    that begins or ends in the silence beside one starts or ends with the sound. `CueOptimizer` chooses the breaks, by the rules
    of `language`. No cue crosses a silence long enough for a cue. `until_ms` is the end of the media.
    """
    part = LayoutPart(tuple(phrases), limits or LayoutLimits(), language)
    return layout_parts([part], speech=speech, until_ms=until_ms)[0]


class LayoutPart(Struct, frozen=True):
    """Phrases in one language, with its limits."""

    phrases: tuple[MediaPhrase, ...]
    limits: LayoutLimits
    language: str | None
    are_sentences: bool = False
    """Each phrase is a sentence, whatever its punctuation; a dash at its start is that of another speaker."""


def layout_parts(
    parts: Sequence[LayoutPart], *, speech: Sequence[tuple[int, int]] = (), until_ms: int | None = None
) -> list[tuple[Cue, ...]]:
    """Return the cues of each part of a file, laid out by its own language, as `layout` does; parts are in order of time."""
    heard = _Speech(speech)
    stretches = [(part, stretch) for part in parts for stretch in _stretches(part, heard)]
    spoken: list[tuple[LayoutPart, SpokenInterval]] = []
    for (part, stretch), following in zip(stretches, [*stretches[1:], None], strict=False):
        next_ms = following[1][0].start_ms if following else until_ms and until_ms + part.limits.gap_ms
        spoken += ((part, cue) for cue in _spoken_intervals(stretch, part, next_ms))
    times = cue_times([cue for _, cue in spoken], until_ms)
    cues = [
        (part, Cue(start, end, cue.lines)) for (part, cue), (start, end) in zip(spoken, times, strict=True)
    ]
    return [tuple(cue for owner, cue in cues if owner is part) for part in parts]


def speech_units(
    phrases: Iterable[MediaPhrase], language: str | None, speech: Sequence[tuple[int, int]] = ()
) -> list[LayoutUnit]:
    """Return the words of phrases as `layout` sees them: with the times at which they are spoken and the cost of a break."""
    part = LayoutPart(tuple(phrases), limits_for(language), language)
    return list(chain.from_iterable(_stretches(part, _Speech(speech))))


def _coarse(stretch: list[LayoutUnit], limits: LayoutLimits, per_char: int) -> Iterator[LayoutUnit]:
    """Yield the units of a stretch, short ones joined where there are more than the optimizer can compare.

    Its time grows with the units of the stretch and with the square of the units of a cue. With usual limits and speech nothing
    is joined.
    """
    line = limits.max_chars * per_char
    least = line * limits.max_lines // _MAX_UNITS_PER_CUE
    if len(stretch) > _MAX_UNITS:
        least = max(least, line * len(stretch) // _MAX_UNITS // 8)
    most = min(line, least)
    joined: list[LayoutUnit] = []
    width = 0
    for unit in stretch:
        if joined and width + unit.space + unit.columns > most:
            yield _joined(joined)
            joined, width = [], 0
        width += unit.columns + (unit.space if joined else 0)
        joined.append(unit)
    if joined:
        yield _joined(joined)


def _joined(units: list[LayoutUnit]) -> LayoutUnit:
    first = units[0]
    if len(units) == 1:
        return first
    text = "".join(unit.text for unit in units)
    width = columns(text.strip())
    return LayoutUnit(text, first.start_ms, units[-1].end_ms, width, first.space, first.cost)


def fast_cues(cues: Iterable[Cue], limits: LayoutLimits, language: str | None) -> int:
    """Return the number of `cues` that exceed the reading speed because they are spoken so fast."""
    if not limits.max_chars_per_s:
        return 0
    per_s = limits.max_chars_per_s * columns_per_char(language)
    return sum(sum(map(columns, cue.lines)) * 1000 > per_s * (cue.end_ms - cue.start_ms) for cue in cues)


class _Speech:
    """The intervals with sound, in order."""

    def __init__(self, intervals: Sequence[tuple[int, int]]) -> None:
        self._starts = [start for start, _ in intervals]
        self._ends = [end for _, end in intervals]

    def limited(self, unit: LayoutUnit) -> LayoutUnit:
        """Return `unit` without silence at its start and its end; one without any sound is unchanged."""
        at = bisect_right(self._ends, unit.start_ms)
        if at == len(self._starts) or self._starts[at] >= unit.end_ms:
            return unit
        last = bisect_left(self._starts, unit.end_ms) - 1
        start_ms = max(unit.start_ms, self._starts[at])
        return replace(unit, start_ms=start_ms, end_ms=max(start_ms, min(unit.end_ms, self._ends[last])))


def _stretches(part: LayoutPart, speech: _Speech) -> list[list[LayoutUnit]]:
    """Return the units of each run of speech that no long silence divides."""
    limits, language = part.limits, part.language
    stretches: list[list[LayoutUnit]] = []
    before: MediaPhrase | None = None
    for phrase in _cleaned(part.phrases):
        found = _units(phrase, limits, language)
        if limits.max_chars:
            found = map(speech.limited, found)
        if before is not None and limits.max_chars:
            found = _continued(stretches[-1][-1], found, language, is_one_phrase=before.is_continued)
            if part.are_sentences:
                found = _begun(found)
        elif before is not None:
            stretches.append([])
        for unit in found:
            if not stretches or (stretches[-1] and _is_divided(stretches[-1][-1], unit, limits)):
                stretches.append([])
            stretches[-1].append(unit)
        before = phrase
    return stretches


def _cleaned(phrases: Iterable[MediaPhrase]) -> Iterator[MediaPhrase]:
    """Yield each phrase with text, the text cleaned, the end limited to the start of the next phrase."""
    spoken = [(phrase, text) for phrase in phrases if (text := clean(phrase.text))]
    spoken.sort(key=lambda pair: pair[0].start_ms)
    for (phrase, text), following in zip(spoken, [*spoken[1:], None], strict=False):
        end_ms = min(phrase.end_ms, following[0].start_ms) if following else phrase.end_ms
        is_spelt = spelling(phrase.words) == "".join(text.split())
        yield replace(
            phrase,
            text=text,
            end_ms=max(phrase.start_ms, end_ms),
            words=phrase.words if is_spelt else (),
        )


def _units(phrase: MediaPhrase, limits: LayoutLimits, language: str | None) -> Iterator[LayoutUnit]:
    """Yield the units of one phrase, none wider than a line."""
    line = limits.max_chars * columns_per_char(language)
    clock = CharTimes(phrase.text, phrase.start_ms, phrase.end_ms, phrase.words)
    timed = tuple(time_weight(word.text) for word in phrase.words)
    if len(phrase.text) > _MAX_WORDS_CHARS and line:
        pieces: tuple[str, ...] = slices(phrase.text, line)
        costs: Iterable[BreakCost] = repeat(BreakCost.PLAIN, len(pieces))
    else:
        pieces = words(phrase.text, language, timed) if line else (phrase.text,)
        costs = break_costs.costs(pieces, language)
    before = 0
    for word, cost in zip(pieces, costs, strict=True):
        for at, part in enumerate(_split_wide(word, line)):
            until = before + time_weight(part)
            bare = part.strip()
            yield LayoutUnit(
                text=part,
                start_ms=clock.start_ms(before),
                end_ms=clock.end_ms(until),
                columns=columns(bare),
                space=len(part) - len(part.lstrip()),
                cost=BreakCost.INSIDE if at else cost,
            )
            before = until


def _split_wide(word: str, line: int) -> Iterator[str]:
    if not line or columns(word.strip()) <= line:
        yield word
        return
    for unit in units(word):
        yield from split_word(unit, line)


def _is_divided(last: LayoutUnit, unit: LayoutUnit, limits: LayoutLimits) -> bool:
    """Return whether the silence between two units is long enough to show any cue before it ends."""
    return unit.start_ms - last.end_ms >= max(_MIN_PAUSE_MS, _PAUSE_FACTOR * (limits.min_ms + limits.gap_ms))


def _continued(
    last: LayoutUnit, found: Iterator[LayoutUnit], language: str | None, *, is_one_phrase: bool
) -> Iterator[LayoutUnit]:
    """Yield the units of a phrase that follows `last`, with a space between the two if their script has spaces."""
    first = next(found)
    space = "" if is_unspaced(last.text[-1]) and not last.text[-1].isalnum() else " "
    *_, cost = break_costs.costs((last.text, space + first.text), language)
    # The model ended a phrase here: half the cost, but an article still stays with its noun.
    yield replace(
        first,
        text=space + first.text,
        space=len(space),
        cost=cost // 2 if cost > 0 and not is_one_phrase else cost,
    )
    yield from found


def _begun(found: Iterator[LayoutUnit]) -> Iterator[LayoutUnit]:
    """Yield the units of a phrase that is a sentence."""
    first = next(found)
    is_turn = first.text.lstrip()[0] in DASHES
    yield replace(first, cost=BreakCost.TURN if is_turn else BreakCost.SENTENCE)
    yield from found


def _spoken_intervals(
    stretch: list[LayoutUnit], part: LayoutPart, next_ms: int | None
) -> Iterator[SpokenInterval]:
    """Yield the cues of one stretch with the times at which they are spoken."""
    limits, per_char = part.limits, columns_per_char(part.language)
    if not limits.max_chars:
        first = stretch[0]
        yield SpokenInterval(
            (first.text,), first.start_ms, stretch[-1].end_ms, first.columns, limits, per_char
        )
        return
    stretch = list(_coarse(stretch, limits, per_char))
    for group in CueOptimizer(stretch, limits, per_char, next_ms).best():
        starts = (group.start, *group.ends[:-1])
        lines = tuple(
            "".join(unit.text for unit in stretch[start:end]).strip()
            for start, end in zip(starts, group.ends, strict=True)
        )
        first, last = stretch[group.start], stretch[group.ends[-1] - 1]
        width = sum(map(columns, lines))
        yield SpokenInterval(lines, first.start_ms, last.end_ms, width, limits, per_char)
