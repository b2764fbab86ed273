"""Held-out audio with its text, the time of each word, and its English translation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from demo_model import espeak, grammar, sounds
from demo_model.espeak import RATE, Espeak, Speech, Voice
from demo_model.grammar import Language, Text
from demo_model.sounds import Samples

Timed = tuple[str, float, float]
"""A word (of Chinese: a character), and its start and end in seconds."""


@dataclass(frozen=True)
class Sentence:
    """A sentence of a clip, its words, and its start and end in seconds."""

    text: str
    translation: str | None
    start_s: float
    end_s: float
    words: tuple[Timed, ...]


@dataclass
class Clip:
    """Samples (float32, 16 kHz) and the sentences in them."""

    samples: Samples
    language: Language
    sentences: list[Sentence] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The whole text."""
        return (" " if self.language == "en" else "").join(sentence.text for sentence in self.sentences)

    @property
    def translation(self) -> str:
        """The whole text in English; raises ValueError for a clip with a sentence that has no translation."""
        return " ".join(_translated(sentence) for sentence in self.sentences)


@dataclass(frozen=True)
class Recipe:
    """What a clip is made of; pauses and lead in seconds, ``words``: the share of strings of unrelated words."""

    words: float = 0.0
    pauses: tuple[float, float] = (0.4, 1.5)
    lead: tuple[float, float] = (0.1, 0.8)
    translated: bool = False
    coloured: bool = False
    noise_db: float | None = None
    voices: Sequence[Voice] | None = None


def _translated(sentence: Sentence) -> str:
    if sentence.translation is None:
        raise ValueError(f"{sentence.text!r} has no translation; ask for a clip of translated sentences")
    return sentence.translation


def placed(text: Text, speech: Speech, at_s: float) -> Sentence:
    """Return a sentence that begins at ``at_s`` with the times of its words."""
    written, english = text.text, text.language == "en"
    spans = []
    at = 0
    for word in written.split(" ") if english else list(written):
        if word[0].isalnum():
            spans.append((at, at + len(word)))
        at += len(word) + english
    places = [*(word.first for word in speech.words), len(written)]
    times = [*(word.start_s for word in speech.words), speech.end_s]
    words = []
    for first, end in spans:
        after = min(end + english, len(written))
        start_s, end_s = (at_s + float(t) for t in np.interp([first, after], places, times))
        words.append((written[first:end], start_s, end_s))
    return Sentence(written, text.translation, at_s, at_s + speech.end_s, tuple(words))


def clip(
    r: random.Random,
    synthesizer: Espeak,
    language: Language,
    recipe: Recipe,
    *,
    seconds: float | None = None,
    count: int | None = None,
) -> Clip:
    """Return a clip of held-out texts: of ``count`` sentences, or as many as have room in ``seconds``."""
    rng = np.random.default_rng(r.randrange(2**32))
    said: list[tuple[int, Samples]] = []
    out = Clip(np.zeros(0, np.float32), language)
    at_s, misfits = r.uniform(*recipe.lead), 0
    while count is None or len(out.sentences) < count:
        text = grammar.draw(r, language, test=True, words=recipe.words)
        if recipe.translated and text.translation is None:
            continue
        voice = r.choice(recipe.voices) if recipe.voices else espeak.random_voice(r, language)
        speech = synthesizer.synthesize(text.text, voice)
        if speech is None:
            continue
        if seconds is not None and at_s + speech.end_s + 0.3 > seconds:
            misfits += 1
            if out.sentences or misfits > 100:
                break
            continue
        samples = sounds.coloured(speech.samples, rng) if recipe.coloured else speech.samples
        said.append((int(at_s * RATE), sounds.levelled(samples)))
        out.sentences.append(placed(text, speech, at_s))
        at_s += speech.end_s + r.uniform(*recipe.pauses)
    n = int((seconds if seconds is not None else out.sentences[-1].end_s + 0.4) * RATE)
    x = np.zeros(n, np.float32)
    for first, samples in said:
        x[first : first + len(samples)] += samples[: max(0, n - first)]
    x *= np.float32(10 ** (r.uniform(-12, 4) / 20))
    if recipe.noise_db is not None:
        level = np.sqrt(np.mean(x[x != 0] ** 2)) * 10 ** (-recipe.noise_db / 20)
        x += (rng.standard_normal(n) * level).astype(np.float32)
    out.samples = np.clip(x, -1, 1)
    return out
