"""Removal of text that the model wrote without speech.

Text that the model is sure of, over speech, is never removed, whatever it says.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from subtitled.core.transcription import Word
from subtitled.cues.phrases import MediaPhrase, spelling
from subtitled.cues.text import is_unspaced
from subtitled.cues.transcript import RemovedPhrase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from subtitled.cues.transcript import Interval, SegmentTranscript

SURE_LOGPROB = -0.5
"""Mean log-probability of a phrase's tokens from which it counts as certain: 0.6 a token."""
SURE_PROBABILITY = 0.5
"""The same for the mean probability of its words, if known: these belong to this phrase alone."""
NO_SPEECH_PROB = 0.6
MAX_COMPRESSION_RATIO = 2.4
"""Both as in `transcribe` of openai/whisper (no_speech_threshold, compression_ratio_threshold)."""
MIN_SPEECH_SHARE = 0.25
"""Least share of a phrase's time with VAD speech; its start and end are often inaccurate."""
NEAR_MS = 300
"""Speech this near to a phrase may be its own."""
MIN_REPETITIONS = 4
"""The same words so many times in a row are a loop."""
MAX_LOOP_PHRASES = 3
"""Phrases of one period of a loop."""

_NOTES = re.compile("[♩♪♫♬🎵🎶]+")
_BRACKETS = re.compile(
    r"\[([^\[\]]{1,40})\]|\(([^()]{1,40})\)|\*([^*]{1,40})\*"
    "|（([^（）]{1,40})）|【([^【】]{1,40})】|［([^［］]{1,40})］"  # noqa: RUF001 - full-width brackets are meant
)
_MARK_WORDS = 3
_MARK_CHARS = 6
"""A mark has at most so many words or full-width characters."""


class HallucinationRules(Struct, frozen=True):
    """The rules of one language; `stock` and `marks` contain text as `comparable` returns it."""

    stock: frozenset[str] = frozenset()
    """Phrases that models write over silence and music."""
    marks: frozenset[str] = frozenset()
    """Words in brackets that describe music and noise; empty if marks are kept."""
    are_unsure_phrases_cut: bool = True
    """Loops, and text where there is no speech."""


def comparable(text: str) -> str:
    """Return the letters of a text and a # for each number, for comparison."""
    letters = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(char for char in letters if unicodedata.category(char)[0] in "LNM")
    return re.sub(r"\d+", "#", kept)


def remove_hallucinations(
    segments: Sequence[SegmentTranscript], rules_for: Callable[[str | None], HallucinationRules]
) -> tuple[tuple[SegmentTranscript, ...], tuple[RemovedPhrase, ...]]:
    """Return the segments without hallucinated phrases, and the removed phrases in order of time.

    `rules_for` returns the rules of a language. Each phrase is in one of the two results.
    """
    removals: list[RemovedPhrase] = []
    kept: list[SegmentTranscript] = []
    for segment in segments:
        rules = rules_for(segment.language)
        phrases = [_without_marks(phrase, rules, removals) for phrase in segment.phrases]
        said = tuple(
            phrase
            for phrase in phrases
            if phrase is not None
            and not _is_stock(phrase, segment.spans, rules, removals)
            and not (rules.are_unsure_phrases_cut and _is_over_silence(phrase, segment.spans, removals))
        )
        kept.append(replace(segment, phrases=said))
    loops = set(_loops(kept, rules_for))
    for index, segment in enumerate(kept):
        looped = [at for at in range(len(segment.phrases)) if (index, at) in loops]
        removals += (_removal(segment.phrases[at], "the same words repeated") for at in looped)
        rest = tuple(phrase for at, phrase in enumerate(segment.phrases) if at not in looped)
        kept[index] = replace(segment, phrases=rest)
    return tuple(kept), tuple(sorted(removals, key=lambda removal: (removal.start_ms, removal.end_ms)))


def doubt_reason(phrase: MediaPhrase, spans: Iterable[Interval]) -> str:
    """Return why a phrase may not have been spoken; "" if it is certain. `spans` are the speech of the VAD."""
    if reason := _low_confidence(phrase):
        return reason
    if phrase.no_speech_prob > NO_SPEECH_PROB:
        return f"over no speech (no-speech probability {phrase.no_speech_prob:.2f})"
    if _speech(phrase, spans) < MIN_SPEECH_SHARE:
        return "over no speech (none was detected there)"
    return ""


def _low_confidence(phrase: MediaPhrase) -> str:
    """Return why a phrase is uncertain by its own scores; "" if it is not."""
    if phrase.words:
        probability = sum(word.probability for word in phrase.words) / len(phrase.words)
        if probability < SURE_PROBABILITY:
            return f"at low confidence (probability of its words {probability:.2f})"
    elif phrase.avg_logprob < SURE_LOGPROB:
        return f"at low confidence (mean log-probability {phrase.avg_logprob:.2f})"
    return ""


def _speech(phrase: MediaPhrase, spans: Iterable[Interval]) -> float:
    """Return the share of a phrase's time with speech."""
    length_ms = max(1, phrase.end_ms - phrase.start_ms)
    overlaps = (
        min(phrase.start_ms + length_ms, span.end_ms) - max(phrase.start_ms, span.start_ms) for span in spans
    )
    return sum(max(0, overlap) for overlap in overlaps) / length_ms


def _removal(phrase: MediaPhrase, cause: str) -> RemovedPhrase:
    return RemovedPhrase(
        start_ms=phrase.start_ms,
        end_ms=phrase.end_ms,
        text=phrase.text,
        cause=cause,
        avg_logprob=phrase.avg_logprob,
        no_speech_prob=phrase.no_speech_prob,
    )


def _is_stock(
    phrase: MediaPhrase, spans: Iterable[Interval], rules: HallucinationRules, removals: list[RemovedPhrase]
) -> bool:
    """Return whether a phrase is a hallucinated stock phrase, and record its removal."""
    if not _is_made_of(comparable(phrase.text), rules.stock) or not (reason := doubt_reason(phrase, spans)):
        return False
    removals.append(_removal(phrase, f"a stock phrase, {reason}"))
    return True


def _is_over_silence(phrase: MediaPhrase, spans: Iterable[Interval], removals: list[RemovedPhrase]) -> bool:
    """Return whether the model is unsure of a phrase and there is no speech in it or beside it; record its removal."""
    is_near = any(
        span.start_ms < phrase.end_ms + NEAR_MS and span.end_ms > phrase.start_ms - NEAR_MS for span in spans
    )
    reason = _low_confidence(phrase)
    if is_near or not reason or phrase.no_speech_prob <= NO_SPEECH_PROB:
        return False
    removals.append(_removal(phrase, f"text where there is no speech, {reason}"))
    return True


def _is_made_of(text: str, stock: frozenset[str]) -> bool:
    """Return whether `text` is one of `stock`, or several of them in a row."""
    if not text or not stock:
        return False
    reached = {0}
    for at in range(len(text)):
        if at in reached:
            reached.update(at + len(one) for one in stock if text.startswith(one, at))
    return len(text) in reached


def _loops(
    segments: Sequence[SegmentTranscript], rules_for: Callable[[str | None], HallucinationRules]
) -> Iterator[tuple[int, int]]:
    """Yield the positions (segment, phrase) of uncertain phrases that repeat MIN_REPETITIONS times or more.

    The first period is kept: it may have been spoken.
    """
    rows = sorted(
        (phrase.start_ms, index, at)
        for index, segment in enumerate(segments)
        for at, phrase in enumerate(segment.phrases)
    )
    said = [segments[index].phrases[at].text for _, index, at in rows]
    texts = [comparable(text) or text for text in said]
    for period in range(1, MAX_LOOP_PHRASES + 1):
        begin = 0
        while begin < len(texts) - period:
            end = begin + period
            while end < len(texts) and texts[end] == texts[end - period]:
                end += 1
            if end - begin >= MIN_REPETITIONS * period:
                for _, index, at in rows[begin + period : end]:
                    segment = segments[index]
                    if rules_for(segment.language).are_unsure_phrases_cut and _is_unsure(
                        segment.phrases[at], segment.spans
                    ):
                        yield index, at
            begin = max(begin + 1, end - period)


def _is_unsure(phrase: MediaPhrase, spans: Iterable[Interval]) -> bool:
    """Return whether a repetition is uncertain; a high temperature does not make it more certain."""
    is_stuck = phrase.compression_ratio > MAX_COMPRESSION_RATIO and phrase.temperature > 0
    return is_stuck or bool(doubt_reason(phrase, spans))


def _without_marks(
    phrase: MediaPhrase, rules: HallucinationRules, removals: list[RemovedPhrase]
) -> MediaPhrase | None:
    """Return a phrase without its marks, whose removal is recorded; None if nothing else is left."""
    if not rules.marks:
        return phrase
    found = [match.span() for match in _BRACKETS.finditer(phrase.text) if _is_mark(match, rules.marks)]
    found = sorted([*found, *(match.span() for match in _NOTES.finditer(phrase.text))])
    if not found:
        return phrase
    for start, end in found:
        mark = replace(phrase, text=phrase.text[start:end])
        removals.append(_removal(mark, "a mark of music or noise (marks = false)"))
    ends = [0, *(at for span in found for at in span), len(phrase.text)]
    rest = " ".join("".join(phrase.text[a:b] for a, b in zip(ends[::2], ends[1::2], strict=True)).split())
    if not comparable(rest):
        return None
    return replace(phrase, text=rest, words=_other_words(phrase, found))


def _is_mark(found: re.Match[str], marks: frozenset[str]) -> bool:
    inner = next(group for group in found.groups() if group is not None)
    words = inner.split()
    if len(words) == 1 and any(map(is_unspaced, inner)):
        return len(inner) <= _MARK_CHARS and any(mark in comparable(inner) for mark in marks if len(mark) > 1)
    return len(words) <= _MARK_WORDS and any(comparable(word) in marks for word in words)


def _other_words(phrase: MediaPhrase, spans: Sequence[tuple[int, int]]) -> tuple[Word, ...]:
    """Return the words of a phrase without the characters of its text in `spans`; () if they do not spell it."""
    if spelling(phrase.words) != "".join(phrase.text.split()):
        return ()
    letters = [
        not any(start <= at < end for start, end in spans)
        for at, char in enumerate(phrase.text)
        if not char.isspace()
    ]
    kept: list[Word] = []
    bounds = [0]
    for word in phrase.words:
        bounds.append(bounds[-1] + len("".join(word.text.split())))
    for word, (start, end) in zip(phrase.words, pairwise(bounds), strict=True):
        is_kept = iter(letters[start:end])
        text = "".join(char for char in word.text if char.isspace() or next(is_kept))
        if text.strip():
            kept.append(replace(word, text=text))
    return tuple(kept)
