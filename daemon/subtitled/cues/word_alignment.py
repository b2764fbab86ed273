"""The timed words of each cue, with the model's confidence."""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING

from msgspec import Struct

from subtitled.core.transcription import Word
from subtitled.cues.phrases import MediaPhrase, spelling
from subtitled.cues.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from subtitled.cues.layout import Cue


class CueWord(Struct, frozen=True, kw_only=True):
    """A part of a cue's line; the parts of a line, joined, are the line.

    It is a timed word, or the part of it on this line. Without timed words it is the phrase's part of the line, and times and
    probability are None.
    """

    line: int
    """Index of the line."""
    text: str
    """With the space before it."""
    start_ms: int | None
    end_ms: int | None
    probability: float | None
    """0 to 1, as reported by the model."""


class AlignedCue(Struct, frozen=True, kw_only=True):
    """A cue with its words."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]
    confidence: float
    """0 to 1: the mean probability of the tokens of its phrases."""
    words: tuple[CueWord, ...]
    channel: str = ""
    """"left", "right" or "track 2", if channels or tracks of the file were transcribed separately."""
    is_accepted: bool = False
    """A person has confirmed the words of which the model was uncertain."""


class _Source(Struct, frozen=True):
    """The origin of a run of letters: a word, or a phrase without timed words."""

    letters: int
    """Characters without whitespace."""
    word: Word | None
    confidence: float


def align_words(cues: Sequence[Cue], phrases: Iterable[MediaPhrase]) -> tuple[AlignedCue, ...]:
    """Return the cues that `layout` made of these phrases, each with its words.

    `layout` keeps all letters in order, so each letter of a line can be traced to its word.
    """
    sources = _Sources(phrases)
    return tuple(_align(cue, sources) for cue in cues)


class _Sources:
    """The letters of all phrases, in order."""

    def __init__(self, phrases: Iterable[MediaPhrase]) -> None:
        self._remaining = _sources(phrases)
        self._last = _Source(0, None, 0.0)
        self._left = 0

    def take(self) -> _Source:
        """Return the origin of the next letter."""
        while not self._left:
            following = next(self._remaining, None)
            if following is None:
                return self._last
            self._last, self._left = following, following.letters
        self._left -= 1
        return self._last


def _sources(phrases: Iterable[MediaPhrase]) -> Iterator[_Source]:
    for phrase in sorted(phrases, key=lambda phrase: phrase.start_ms):
        text = "".join(clean(phrase.text).split())
        confidence = min(1.0, exp(phrase.avg_logprob))
        words = [(word, "".join(clean(word.text).split())) for word in phrase.words]
        if spelling(phrase.words) == text == "".join(spelt for _, spelt in words):
            yield from (_Source(len(spelt), word, confidence) for word, spelt in words)
        else:
            yield _Source(len(text), None, confidence)


def _align(cue: Cue, sources: _Sources) -> AlignedCue:
    words: list[CueWord] = []
    confidences: list[float] = []
    for number, line in enumerate(cue.lines):
        begun = 0
        last: _Source | None = None
        space = 0
        for at, char in enumerate(line):
            if char.isspace():
                continue
            source = sources.take()
            confidences.append(source.confidence)
            if last is not None and source is not last:
                words.append(_word(number, line[begun:space], last))
                begun = space
            last, space = source, at + 1
        if last is not None:
            words.append(_word(number, line[begun:], last))
    return AlignedCue(
        start_ms=cue.start_ms,
        end_ms=cue.end_ms,
        lines=cue.lines,
        confidence=round(sum(confidences) / max(1, len(confidences)), 3),
        words=tuple(words),
        channel=cue.channel,
        is_accepted=cue.is_accepted,
    )


def _word(line: int, text: str, source: _Source) -> CueWord:
    word = source.word
    return CueWord(
        line=line,
        text=text,
        start_ms=word.start_ms if word else None,
        end_ms=word.end_ms if word else None,
        probability=round(word.probability, 3) if word else None,
    )
