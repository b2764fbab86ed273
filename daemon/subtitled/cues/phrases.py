"""Phrases in media time."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from subtitled.core.plan import SAMPLES_PER_MS, Plan, PlanPiece, Span, to_media
from subtitled.core.transcription import Phrase, Word
from subtitled.cues.text import time_weight, units

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SLIVER_SAMPLES = 500 * SAMPLES_PER_MS
"""More than the silence kept on one side of a span (vad.pad_ms), less than a word with its pause."""


class MediaPhrase(Struct, frozen=True):
    """A phrase, or its part on one side of a removed gap, from `start_ms` to `end_ms` of media time."""

    text: str
    start_ms: int
    end_ms: int
    words: tuple[Word, ...] = ()
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0
    temperature: float = 0.0
    is_continued: bool = False
    """The next phrase is the rest of it, after a removed gap."""


class _Part(Struct, frozen=True):
    """The part of a phrase in samples [start, end) of a segment, between two removed gaps."""

    text: str
    start: int
    end: int
    words: tuple[Word, ...]


def to_media_time(
    phrases: Iterable[Phrase], pieces: tuple[PlanPiece, ...], spans: tuple[Span, ...], offset_samples: int
) -> tuple[MediaPhrase, ...]:
    """Return one segment's phrases in media time, `offset_samples` (16 kHz) later than their pieces.

    They are ordered by start and do not overlap: a phrase ends at the latest when the next one starts. Each lies in one run of
    real audio: times are limited to the pieces, and a phrase across a removed gap is split there, by its words or else in
    proportion to time. All text is kept, except phrases of whitespace; words that do not spell their phrase are dropped if it is
    split; otherwise words stay within its parts and do not overlap. A sliver of a phrase beyond a gap is padding and gets no
    text, and neither does the end of a phrase that has no speech there. No time is negative.
    """
    plan = Plan(index=0, pieces=pieces, spans=spans)
    seams, speech = _seams(pieces), plan.sound().speech
    spoken = sorted((phrase for phrase in phrases if phrase.text.strip()), key=lambda phrase: phrase.start_ms)
    starts = [min(max(phrase.start_ms * SAMPLES_PER_MS, 0), plan.samples) for phrase in spoken]
    placed: list[MediaPhrase] = []
    for phrase, start, following in zip(spoken, starts, [*starts, plan.samples][1:], strict=True):
        end = max(start, min(phrase.end_ms * SAMPLES_PER_MS, following))
        bounds = (start, *(seam for seam in seams if start < seam < end), end)
        bounds = _without_slivers(_without_silent_ends(bounds, speech), phrase)
        parts = [_placed(phrase, part, plan, offset_samples) for part in _parts(phrase, bounds)]
        placed.extend(replace(part, is_continued=True) for part in parts[:-1])
        placed.extend(parts[-1:])
    return tuple(placed)


def _without_silent_ends(bounds: tuple[int, ...], speech: Iterable[Span]) -> tuple[int, ...]:
    """Return `bounds` without ends beyond a gap that contain no speech: a late word belongs before the gap."""
    is_spoken = [
        any(span.start < end and start < span.end for span in speech) for start, end in pairwise(bounds)
    ]
    if not any(is_spoken):
        return bounds
    first = is_spoken.index(True)
    last = len(is_spoken) - is_spoken[::-1].index(True)
    return bounds[first : last + 1]


def _without_slivers(bounds: tuple[int, ...], phrase: Phrase) -> tuple[int, ...]:
    """Return `bounds` without short ends beyond a gap.

    Whisper often starts a phrase where the last one ended, in the silence kept around the speech before the gap. Words, if
    present, show what is spoken where, and nothing is removed.
    """
    limit = 0 if phrase.words else min(_SLIVER_SAMPLES, (bounds[-1] - bounds[0]) // 4)
    while len(bounds) > 2 and bounds[1] - bounds[0] <= limit:
        bounds = bounds[1:]
    while len(bounds) > 2 and bounds[-1] - bounds[-2] <= limit:
        bounds = bounds[:-1]
    return bounds


def spelling(words: Iterable[Word]) -> str:
    """Return the text of `words` without whitespace."""
    return "".join("".join(word.text for word in words).split())


def _seams(pieces: tuple[PlanPiece, ...]) -> tuple[int, ...]:
    """Return the samples of a segment at which audio between two pieces was left out."""
    ends = accumulate(piece.samples for piece in pieces)
    return tuple(
        end
        for end, (one, next_one) in zip(ends, pairwise(pieces), strict=False)
        if one.start + one.samples != next_one.start
    )


def _parts(phrase: Phrase, bounds: tuple[int, ...]) -> Iterator[_Part]:
    """Yield the part of a phrase between each two of `bounds` (samples of the segment), if any text falls there."""
    runs = tuple(pairwise(bounds))
    if len(runs) == 1:
        yield _Part(phrase.text, *runs[0], phrase.words)
        return
    texts = [""] * len(runs)
    words: list[tuple[Word, ...]] = [()] * len(runs)
    if phrase.words and spelling(phrase.words) == "".join(phrase.text.split()):
        index = 0
        for word in phrase.words:
            index = max(index, _nearest(word, runs))
            texts[index] += word.text
            words[index] += (word,)
    else:
        for unit, index in _shared_by_time(phrase.text, bounds):
            texts[index] += unit
    for text, run, spoken in zip(texts, runs, words, strict=True):
        if text.strip():
            yield _Part(text, *run, spoken)


def _nearest(word: Word, runs: tuple[tuple[int, int], ...]) -> int:
    """Return the index of the run that contains most of `word`, or is nearest to it."""

    def overlap(run: tuple[int, int]) -> int:
        return min(word.end_ms * SAMPLES_PER_MS, run[1]) - max(word.start_ms * SAMPLES_PER_MS, run[0])

    return max(range(len(runs)), key=lambda index: overlap(runs[index]))


def _shared_by_time(text: str, bounds: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    """Yield the units of `text`, each with the index of the run that contains its middle in even time."""
    total = max(1, time_weight(text))
    before = index = 0
    for unit in units(text):
        middle = (2 * before + time_weight(unit)) * (bounds[-1] - bounds[0])
        while index < len(bounds) - 2 and middle >= 2 * total * (bounds[index + 1] - bounds[0]):
            index += 1
        yield unit, index
        before += time_weight(unit)


def _placed(phrase: Phrase, part: _Part, plan: Plan, offset_samples: int) -> MediaPhrase:
    start_ms, end_ms = _media_ms(plan, part.start, part.end, offset_samples)
    return MediaPhrase(
        text=part.text.strip(),
        start_ms=start_ms,
        end_ms=end_ms,
        words=tuple(_placed_words(part, plan, offset_samples)),
        avg_logprob=phrase.avg_logprob,
        compression_ratio=phrase.compression_ratio,
        no_speech_prob=phrase.no_speech_prob,
        temperature=phrase.temperature,
    )


def _placed_words(part: _Part, plan: Plan, offset_samples: int) -> Iterator[Word]:
    earliest = part.start
    for word in part.words:
        start = min(max(word.start_ms * SAMPLES_PER_MS, earliest), part.end)
        end = min(max(word.end_ms * SAMPLES_PER_MS, start), part.end)
        # A word at the very end lies before the gap that may follow.
        is_at_end = part.start < start == part.end
        times = _media_ms(plan, start, end, offset_samples, is_at_end=is_at_end)
        yield Word(word.text, *times, word.probability)
        earliest = end


def _media_ms(
    plan: Plan, start: int, end: int, offset_samples: int, *, is_at_end: bool = False
) -> tuple[int, int]:
    """Return samples [start, end) of the segment in media time, rounded inwards so as not to leave them."""
    first = to_media(plan, start, is_end=is_at_end) + offset_samples
    last = to_media(plan, end, is_end=True) + offset_samples
    start_ms = max(0, -(-first // SAMPLES_PER_MS))
    return start_ms, max(start_ms, last // SAMPLES_PER_MS)
