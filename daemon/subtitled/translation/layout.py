"""Cues from translated sentences: in the target language, or in both languages."""

from __future__ import annotations

from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from subtitled.config.layout_limits import LayoutLimits, limits_for
from subtitled.core.transcription import Word
from subtitled.cues import break_costs
from subtitled.cues.cjk import words
from subtitled.cues.layout import Cue, LayoutPart, layout_parts
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.text import time_weight
from subtitled.cues.text_width import columns, columns_per_char
from subtitled.cues.timing import SpokenInterval, cue_times, reading_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from subtitled.core.translation import Sentence, SentenceTranslation

_DISTANCE_COST = 300.0
"""Cost of a break that is a whole sentence away from its place; those of `BreakCost` are up to 400."""
_LONG_PAUSE_MS = 1200
"""No cue in two languages crosses a longer one."""


class TranslatedSentence(Struct, frozen=True, kw_only=True):
    """A sentence with its translation, ready to be laid out."""

    sentence: Sentence
    translation: SentenceTranslation
    language: str | None
    """Language of the text: the target, or that of the source if there is a problem."""

    @property
    def text(self) -> str:
        """The text in the target language, with its marks and the dash of a change of speaker."""
        return _marked(self.sentence, self.translation.text)

    @property
    def source(self) -> str:
        """The original, likewise."""
        return _marked(self.sentence, self.sentence.text)


def translated_cues(
    sentences: Sequence[TranslatedSentence],
    limits: Callable[[str | None], LayoutLimits] = limits_for,
    *,
    until_ms: int | None = None,
) -> tuple[Cue, ...]:
    """Return the cues of translated sentences, by the rules and `limits` of their languages, in order of time.

    A cue lies within the time of its sentences and the silence after them, and never begins before them. Channels are laid out
    separately: their cues may overlap. `until_ms` is the end of the media.
    """
    cues: list[Cue] = []
    for channel, ours in _by_channel(sentences):
        parts = [
            LayoutPart(
                tuple(_phrase(one, language) for one in run), limits(language), language, are_sentences=True
            )
            for language, run in groupby(ours, key=lambda one: one.language)
        ]
        for part in layout_parts(parts, until_ms=until_ms):
            cues += (replace(cue, channel=channel) for cue in part)
    return tuple(sorted(cues, key=lambda cue: cue.start_ms))


def bilingual_cues(
    sentences: Sequence[TranslatedSentence],
    limits: Callable[[str | None], LayoutLimits] = limits_for,
    *,
    until_ms: int | None = None,
) -> tuple[Cue, ...]:
    """Return cues in two languages: a line of the translation above a line of the original.

    A long sentence is divided in as many cues as its longer text needs lines. A sentence without translation has one line.
    """
    cues: list[Cue] = []
    for channel, ours in _by_channel(sentences):
        pairs = list(_merged([pair for one in ours for pair in _pairs(one, limits)]))
        times = cue_times([pair.spoken for pair in pairs], until_ms)
        cues += (
            Cue(start, end, pair.spoken.lines, channel)
            for pair, (start, end) in zip(pairs, times, strict=True)
        )
    return tuple(sorted(cues, key=lambda cue: cue.start_ms))


class _Pair(Struct, frozen=True):
    """A cue in two languages."""

    spoken: SpokenInterval
    widths: tuple[int, ...]
    """Columns that each line may have."""


def _by_channel(
    sentences: Sequence[TranslatedSentence],
) -> Iterator[tuple[str, list[TranslatedSentence]]]:
    for channel in dict.fromkeys(one.sentence.channel for one in sentences):
        ours = [one for one in sentences if one.sentence.channel == channel]
        yield channel, sorted(ours, key=lambda one: one.sentence.start_ms)


def _marked(sentence: Sentence, text: str) -> str:
    dash = "- " if sentence.is_speaker_change else ""
    return f"{dash}{sentence.prefix}{text}{sentence.suffix}"


def _phrase(one: TranslatedSentence, language: str | None) -> MediaPhrase:
    """Return a sentence to lay out: its text shares out the time in which the original is spoken, without the pauses."""
    sentence = one.sentence
    timed: list[Word] = []
    for text, (start_ms, end_ms) in _by_run(one.text, language, sentence):
        pieces = words(text, language)
        ends = list(accumulate(map(time_weight, pieces), initial=0))
        length_ms, total = end_ms - start_ms, max(1, ends[-1])
        timed += (
            Word(piece, start_ms + length_ms * begin // total, start_ms + length_ms * end // total, 1.0)
            for piece, (begin, end) in zip(pieces, pairwise(ends), strict=True)
        )
    return MediaPhrase(one.text, sentence.start_ms, sentence.end_ms, tuple(timed) if sentence.spoken else ())


def _by_run(
    text: str, language: str | None, sentence: Sentence, pause_ms: int = 0
) -> list[tuple[str, tuple[int, int]]]:
    """Return a text divided among its sentence's runs of speech; runs with a pause up to `pause_ms` between them are one."""
    runs: list[tuple[int, int]] = []
    spoken: list[int] = []
    for start_ms, end_ms in sentence.spoken or ((sentence.start_ms, sentence.end_ms),):
        if runs and start_ms - runs[-1][1] <= pause_ms:
            runs[-1] = runs[-1][0], end_ms
            spoken[-1] += end_ms - start_ms
        else:
            runs.append((start_ms, end_ms))
            spoken.append(end_ms - start_ms)
    texts = _divided(text, language, spoken)
    return [(part, run) for part, run in zip(texts, runs, strict=True) if part.strip()]


def _divided(text: str, language: str | None, shares: Sequence[int]) -> list[str]:
    """Return a text in as many parts as `shares`, of about these shares of its width, broken where a line may break.

    With fewer words than shares some parts are empty.
    """
    if len(shares) == 1:
        return [text]
    pieces = words(text, language)
    costs = list(break_costs.costs(pieces, language))
    ends = list(accumulate(map(time_weight, pieces), initial=0))
    total, all_shares = max(1, ends[-1]), max(1, sum(shares))
    bounds = [0]
    for number, share in enumerate(list(accumulate(shares))[:-1], 1):
        first = min(bounds[-1] + 1, len(pieces))
        last = max(first, len(pieces) - (len(shares) - number))

        def cost(at: int, place: float = share / all_shares) -> float:
            here = costs[at] if at < len(pieces) else 0
            return here + _DISTANCE_COST * abs(ends[at] / total - place)

        bounds.append(min(range(first, last + 1), key=cost))
    return ["".join(pieces[begin:end]) for begin, end in pairwise([*bounds, len(pieces)])]


def _pairs(one: TranslatedSentence, limits: Callable[[str | None], LayoutLimits]) -> Iterator[_Pair]:
    """Yield the cues in two languages of a sentence."""
    sentence = one.sentence
    rows = [(one.text, one.language)]
    if not one.translation.problem and one.translation.text != sentence.text:
        rows.append((one.source, sentence.language or None))
    columns_in = [limits(language).max_chars * columns_per_char(language) for _, language in rows]
    own, per_char = limits(one.language), columns_per_char(one.language)
    groups = [_by_run(text, language, sentence, _LONG_PAUSE_MS) for text, language in rows]
    if len({len(group) for group in groups}) > 1:  # a text is too short to be divided by its pauses
        groups = [[(text, (sentence.start_ms, sentence.end_ms))] for text, _ in rows]
    for parts in zip(*groups, strict=True):
        start_ms, end_ms = parts[0][1]
        texts = [text for text, _ in parts]
        for lines, (begin, end) in _fitted(texts, [language for _, language in rows], columns_in):
            length_ms = end_ms - start_ms
            yield _Pair(
                SpokenInterval(
                    lines,
                    start_ms + round(length_ms * begin),
                    start_ms + round(length_ms * end),
                    columns(lines[0]),
                    own,
                    per_char,
                ),
                tuple(columns_in),
            )


def _fitted(
    texts: Sequence[str], languages: Sequence[str | None], widths: Sequence[int]
) -> Iterator[tuple[tuple[str, ...], tuple[float, float]]]:
    """Yield texts of one meaning in parts that fit one line each, and each part's share of their time, 0 to 1."""
    count = 1
    if all(widths):
        needed = (-(-columns(text.strip()) // width) for text, width in zip(texts, widths, strict=True))
        count = max(1, *needed)
    most = count + 3
    while True:
        parts = [
            _divided(text, language, [1] * count) for text, language in zip(texts, languages, strict=True)
        ]
        is_fitting = all(
            not width or columns(part.strip()) <= width
            for row, width in zip(parts, widths, strict=True)
            for part in row
        )
        if is_fitting or count >= most:
            break
        count += 1
    ends = list(accumulate((max(1, time_weight(part)) for part in parts[-1]), initial=0))
    for lines, (begin, end) in zip(zip(*parts, strict=True), pairwise(ends), strict=True):
        shown = tuple(text for line in lines if (text := line.strip()))
        if shown:
            yield shown, (begin / ends[-1], end / ends[-1])


def _merged(pairs: Iterable[_Pair]) -> Iterator[_Pair]:
    """Yield the cues, short ones joined with the next where they could not be read before it."""
    current: _Pair | None = None
    for pair in pairs:
        if current is not None and (joined := _joined(current, pair)) is not None:
            current = joined
            continue
        if current is not None:
            yield current
        current = pair
    if current is not None:
        yield current


def _joined(one: _Pair, two: _Pair) -> _Pair | None:
    """Return two cues as one; None if the first can be read in its time, or a line would be too long."""
    first, second = one.spoken, two.spoken
    available_ms = second.start_ms - first.limits.gap_ms - first.start_ms
    needed_ms = reading_ms(first.columns, first.columns_per_char, first.limits)
    is_near = second.start_ms - first.end_ms <= _LONG_PAUSE_MS
    if (
        available_ms >= needed_ms
        or not is_near
        or one.widths != two.widths
        or len(first.lines) != len(second.lines)
    ):
        return None
    lines = tuple(f"{left} {right}" for left, right in zip(first.lines, second.lines, strict=True))
    if any(width and columns(line) > width for line, width in zip(lines, one.widths, strict=False)):
        return None
    if first.limits.max_ms and second.end_ms - first.start_ms > first.limits.max_ms:
        return None
    return replace(one, spoken=replace(first, lines=lines, end_ms=second.end_ms, columns=columns(lines[0])))
