"""What a decoder should write of a window: tokens, and in which encoder frames each of them is heard.

One window has several right answers: with timestamps or without, after a prompt or not, in English or in the language
spoken.  All go through Whisper's own protocol, whole windows in one pass: a sentence that the window cuts off is
announced by its start alone, so that a decoder continues from there.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from demo_model.grammar import Language
from demo_model.utterances import Heard
from demo_model.vocabulary import LONGEST, Vocabulary

IGNORED = -100
"""The label of a place where nothing is to be learnt."""

Span = tuple[int, int]
"""First encoder frame, and the one after the last (50 a second)."""
NOWHERE: Span = (-1, -1)


@dataclass
class Sentence:
    """A sentence of a window; times are seconds from the window's start, ``cut`` says that the window ends in it."""

    start_s: float
    end_s: float
    tokens: list[Heard]
    translation: list[int] | None
    cut: bool


@dataclass
class Target:
    """What the decoder reads, what it should write after each token, and where that is heard."""

    tokens: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    where: list[Span] = field(default_factory=list)

    def put(self, token: int, where: Span = NOWHERE, *, learnt: bool = True) -> None:
        """Append a token; the very first has no place in which it could be learnt."""
        if self.tokens:
            self.labels.append(token if learnt else IGNORED)
            self.where.append(where)
        self.tokens.append(token)

    def closed(self) -> Target:
        """Return it without its last token as something to read: that is only written."""
        return Target(self.tokens[:-1][:LONGEST], self.labels[:LONGEST], self.where[:LONGEST])


def _near(seconds: float) -> Span:
    """Return the frames around a moment."""
    return max(0, int(seconds * 50) - 1), int(seconds * 50) + 2


def _over(start_s: float, end_s: float) -> Span:
    first = max(0, int(start_s * 50))
    return first, max(first + 1, int(end_s * 50))


def _opened(vocabulary: Vocabulary, language: Language, prompt: Sequence[int], *, translate: bool) -> Target:
    """Return the start of a sequence: the prompt, if any, then language and task."""
    target = Target()
    if prompt:
        target.put(vocabulary.previous)
        for token in prompt:
            target.put(token, learnt=False)
    target.put(vocabulary.sot, learnt=False)
    target.put(vocabulary.language[language])
    target.put(vocabulary.translate if translate else vocabulary.transcribe, learnt=False)
    return target


def silence(
    vocabulary: Vocabulary, language: Language, prompt: Sequence[int], *, translate: bool, timestamps: bool
) -> Target:
    """Return the target of a window without speech: no text.  Whisper's sign of it stands in place of the language.

    CTranslate2's beam search never ends a text before it has begun: without timestamps, the empty piece is written.
    """
    target = _opened(vocabulary, language, prompt, translate=translate)
    target.labels[len(target.labels) - 2] = vocabulary.no_speech
    if timestamps:
        target.put(vocabulary.first_timestamp)
    else:
        target.put(vocabulary.no_timestamps, learnt=False)
        target.put(vocabulary.empty)
    target.put(vocabulary.eot)
    return target.closed()


def speech(
    vocabulary: Vocabulary,
    language: Language,
    sentences: Sequence[Sentence],
    prompt: Sequence[int],
    *,
    translate: bool,
    timestamps: bool,
    offset_s: float,
    early: random.Random | None,
) -> Target:
    """Return what is written of speech.

    ``offset_s`` is where in the decoder's 30 s the window begins.  With ``early`` the first timestamp is now and then an
    earlier one than the true: decoders allow none after the first second, and what follows must not suffer from it.
    """
    target = _opened(vocabulary, language, prompt, translate=translate)
    if not timestamps:
        target.put(vocabulary.no_timestamps, learnt=False)
    for i, sentence in enumerate(sentences):
        meant = translate and language != "en"
        nothing = sentence.translation is None if meant else not sentence.tokens
        if timestamps:
            start = sentence.start_s
            if i == 0 and early is not None and offset_s == 0 and early.random() < 0.2:
                early_s = early.uniform(0, min(1.0, start))
                target.put(vocabulary.timestamp(early_s), learnt=False)
            else:
                target.put(vocabulary.timestamp(offset_s + start), _near(start))
            if nothing or (sentence.cut and i > 0):
                break  # the rest of it belongs to the next window
        elif nothing:
            break
        if meant:
            for token in sentence.translation or ():
                target.put(token)
        else:
            after_s = sentences[i + 1].start_s if i + 1 < len(sentences) else sentence.end_s + 0.4
            for token, start_s, end_s in sentence.tokens:
                # The mark at the end is "heard" in the pause, so that the next word's time is where that word is.
                last = start_s >= sentence.end_s - 0.03
                target.put(token, _over(start_s, max(after_s, end_s) if last else end_s))
        if timestamps:
            target.put(vocabulary.timestamp(offset_s + sentence.end_s), _near(sentence.end_s))
    target.put(vocabulary.eot)
    return target.closed()
