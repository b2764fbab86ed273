"""Sentences put together from the phrases of a transcript, or from the cues of a subtitle file."""

from __future__ import annotations

import re
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from subtitled.core.translation import Sentence
from subtitled.cues.break_costs import BreakCost
from subtitled.cues.layout import speech_units
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.text import DASHES, begins_with_negative_number, clean, time_weight
from subtitled.cues.text_formats import one_line
from subtitled.cues.transcript import phrases_by_language, speech_intervals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from subtitle.messages import EditedCue
    from subtitled.cues.layout import Cue
    from subtitled.cues.optimizer import LayoutUnit
    from subtitled.cues.transcript import Transcript

PAUSE_MS = 2000
"""A pause of this length ends a sentence, whatever its punctuation."""
UNPUNCTUATED_PAUSE_MS = 700
"""A pause of this length ends a sentence in text without punctuation, as some models write Chinese, and in scripts that have none."""
_UNPUNCTUATED_COLUMNS = 400
"""Text with fewer than one end of a sentence in so many columns has no punctuation."""
MAX_COLUMNS = 300
"""A longer sentence is cut at its best break: no translation model handles it well."""
MAX_MS = 20_000
_RUN_PAUSE_MS = 300
"""A shorter pause does not divide a sentence's runs of speech."""
_GAP_MS_PER_COST = 20
"""Pause that compensates one unit of a break's cost."""
_MARKUP = re.compile(r"</?(?:[ibus]|font|c|v|lang|ruby|rt)\b[^<>]*>|\{\\[^{}]*\}", re.IGNORECASE)
"""Tags and commands of SubRip and ASS."""
_MARK = re.compile(r"([\[({【（〔♪♫#*\s]+)(.*?)([\])}】）〕♪♫#*\s]*)")  # noqa: RUF001 - full-width brackets are meant
_BRACKETS = ("[]", "()", "{}", "【】", "（）", "〔〕", "♪♪", "♫♫", "##", "**")  # noqa: RUF001 - likewise


class _Passage(Struct, frozen=True):
    """Phrases in one language that a sentence may continue across: one speaker, as far as marks tell."""

    phrases: tuple[MediaPhrase, ...]
    language: str | None
    channel: str
    speech: tuple[tuple[int, int], ...] = ()


def sentences_of(transcript: Transcript) -> tuple[Sentence, ...]:
    """Return the sentences of a transcript, as edited, in order of time.

    A sentence ends at final punctuation of its language, at a pause of `PAUSE_MS`, and where the channel, the language or the
    speaker (a dash at the start of a phrase) changes. A mark such as "[Music]" or "♪ … ♪" that is a whole phrase is a sentence.
    """
    passages: list[_Passage] = []
    for channel in dict.fromkeys(segment.channel for segment in transcript.segments):
        segments = tuple(segment for segment in transcript.segments if segment.channel == channel)
        speech = speech_intervals(segments)
        passages += (
            _Passage(phrases, language, channel, speech)
            for language, phrases in phrases_by_language(transcript, segments)
        )
    return _sentences(passages)


def sentences_of_cues(cues: Iterable[Cue | EditedCue], language: str | None) -> tuple[Sentence, ...]:
    """Return the sentences of a subtitle file's cues; tags for italics, colour and position are left out."""
    passages: list[_Passage] = []
    for channel, ours in groupby(sorted(cues, key=lambda cue: cue.channel), key=lambda cue: cue.channel):
        phrases = [phrase for cue in sorted(ours, key=lambda cue: cue.start_ms) for phrase in _phrases(cue)]
        passages.append(_Passage(tuple(phrases), language, channel))
    return _sentences(passages)


def is_translatable(text: str) -> bool:
    """Return whether a text has a letter: "♪", "…" and "1, 2, 3" are the same in every language."""
    return any(char.isalpha() for char in text)


def _sentences(passages: Iterable[_Passage]) -> tuple[Sentence, ...]:
    found = [sentence for passage in passages for part in _by_turn(passage) for sentence in _divided(*part)]
    found.sort(key=lambda sentence: sentence.start_ms)
    return tuple(replace(sentence, index=index) for index, sentence in enumerate(found))


def _phrases(cue: Cue | EditedCue) -> Iterator[MediaPhrase]:
    """Yield a cue's text: one phrase, or one for each of its speakers and marks, which share out its time."""
    parts: list[list[str]] = []
    for line in cue.lines:
        text = clean(_MARKUP.sub("", line))
        if not text:
            continue
        if parts and not _is_turn(text) and not _is_mark(text) and not _is_mark(parts[-1][-1]):
            parts[-1].append(text)
        else:
            parts.append([text])
    texts = [one_line(lines) for lines in parts]
    total = max(1, sum(map(time_weight, texts)))
    start = 0
    for text in texts:
        until = start + time_weight(text)
        length_ms = cue.end_ms - cue.start_ms
        yield MediaPhrase(
            text, cue.start_ms + length_ms * start // total, cue.start_ms + length_ms * until // total
        )
        start = until


def _by_turn(passage: _Passage) -> Iterator[tuple[_Passage, bool]]:
    """Yield the passages between changes of speaker and marks, each with whether a change of speaker begins it."""
    current: list[MediaPhrase] = []
    is_change = False
    for phrase in sorted(passage.phrases, key=lambda phrase: phrase.start_ms):
        text = clean(phrase.text)
        if not text:
            continue
        is_turn = _is_turn(text)
        if current and (is_turn or _is_mark(text) or _is_mark(clean(current[-1].text))):
            yield replace(passage, phrases=tuple(current)), is_change
            current, is_change = [], False
        is_change |= is_turn
        current.append(phrase)
    if current:
        yield replace(passage, phrases=tuple(current)), is_change


def _is_turn(text: str) -> bool:
    """Return whether a phrase begins with a speaker's dash.

    With a small letter right after it, a dash continues a thought; with a digit, it is a minus.
    """
    rest = text[1:].lstrip()
    is_dash = text[0] in DASHES and bool(rest) and not text[1].islower() and rest[0] not in DASHES
    return is_dash and not begins_with_negative_number(text)


def _is_mark(text: str) -> bool:
    """Return whether a whole text is a mark: "[Music]", "(applause)", "♪ la la ♪"."""
    return any(
        text[0] == left and text[-1] == right and (len(text) == 1 or left not in text[1:-1])
        for left, right in map(tuple, _BRACKETS)
    )


def _divided(passage: _Passage, is_change: bool) -> Iterator[Sentence]:
    """Yield the sentences of a passage."""
    units = speech_units(passage.phrases, passage.language, passage.speech)
    ends = sum(unit.cost <= BreakCost.SENTENCE for unit in units)
    is_punctuated = sum(unit.columns for unit in units) < max(2, ends) * _UNPUNCTUATED_COLUMNS
    pause_ms = PAUSE_MS if is_punctuated else UNPUNCTUATED_PAUSE_MS
    current: list[LayoutUnit] = []
    runs: list[list[LayoutUnit]] = []
    for unit in units:
        if current and (unit.cost <= BreakCost.SENTENCE or unit.start_ms - current[-1].end_ms >= pause_ms):
            runs += _cut(current)
            current = []
        current.append(unit)
    runs += _cut(current)
    for number, run in enumerate(runs):
        is_turn = (is_change and not number) or run[0].cost == BreakCost.TURN
        yield _sentence(run, passage, is_turn=is_turn)


def _cut(units: list[LayoutUnit]) -> list[list[LayoutUnit]]:
    """Return the units of a sentence, divided at the best breaks if it is too long."""
    width = sum(unit.columns + unit.space for unit in units)
    if len(units) < 2 or (width <= MAX_COLUMNS and units[-1].end_ms - units[0].start_ms <= MAX_MS):
        return [units] if units else []

    def cost(at: int) -> float:
        pause_ms = max(0, units[at].start_ms - units[at - 1].end_ms)
        uneven = abs(at / len(units) - 0.5)
        return units[at].cost - pause_ms / _GAP_MS_PER_COST + BreakCost.BOUND * uneven

    middle = min(range(1, len(units)), key=cost)
    return [*_cut(units[:middle]), *_cut(units[middle:])]


def _sentence(units: Sequence[LayoutUnit], passage: _Passage, *, is_turn: bool) -> Sentence:
    text = "".join(unit.text for unit in units).strip()
    if is_turn:
        text = text.lstrip("".join(DASHES) + " ") or text
    prefix = suffix = ""
    if _is_mark(text) and (found := _MARK.fullmatch(text)) and found[2]:
        prefix, text, suffix = found.groups()
    spoken: list[tuple[int, int]] = [(units[0].start_ms, units[0].end_ms)]
    for before, unit in pairwise(units):
        if unit.start_ms - before.end_ms < _RUN_PAUSE_MS:
            spoken[-1] = spoken[-1][0], max(spoken[-1][1], unit.end_ms)
        else:
            spoken.append((unit.start_ms, unit.end_ms))
    return Sentence(
        index=0,
        text=text,
        language=passage.language or "",
        start_ms=units[0].start_ms,
        end_ms=spoken[-1][1],
        spoken=tuple(spoken) if len(spoken) > 1 else (),
        is_speaker_change=is_turn,
        prefix=prefix,
        suffix=suffix,
        channel=passage.channel,
    )
