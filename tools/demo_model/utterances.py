"""The training side of the corpus, spoken once: log-mel frames and what is heard in each of them, kept on disk."""

from __future__ import annotations

import json
import multiprocessing
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from demo_model import espeak, features, grammar, sounds
from demo_model.grammar import Language
from demo_model.vocabulary import Vocabulary

_PART = 500

Heard = tuple[int, float, float]
"""A token, and from when to when in seconds it is heard."""


@dataclass
class Utterance:
    """A sentence as it was spoken.  Times are seconds from its first sample; ``first_frame`` is its place in the file."""

    text: str
    language: Language
    translation: str | None
    end_s: float
    tokens: list[Heard]
    phonemes: list[tuple[float, str]]
    frames: int
    first_frame: int = 0


def heard(text: str, language: Language, speech: espeak.Speech, vocabulary: Vocabulary) -> list[Heard]:
    """Return when each token of a text is heard; a mark at the end is heard where speech stops."""
    places = [word.first for word in speech.words]
    times = [word.start_s for word in speech.words]
    places.append(len(text) - (not text[-1].isalnum()))
    times.append(speech.end_s)
    space = language == "en"  # English text begins with one for Whisper
    written = " " + text if space else text
    encoding = vocabulary.encoded(written)
    tokens: list[Heard] = []
    for token, (first, end) in zip(encoding.ids, encoding.offsets, strict=True):
        piece = written[first:end].strip()
        if piece and not piece[0].isalnum():
            tokens.append((token, speech.end_s - 0.02, speech.end_s + 0.08))
            continue
        a, b = first - space, end - space
        while a < b and (a < 0 or text[a] == " "):
            a += 1
        b += b < len(text) and text[b] == " "
        start_s, end_s = (float(t) for t in np.interp([a, b], places, times))
        tokens.append((token, start_s, max(end_s, start_s + 0.02)))
    return tokens


def _spoken(seed: str, language: Language, count: int, tokenizer: Path) -> list[tuple[Utterance, Any]]:
    """Speak ``count`` utterances; runs in a process of its own."""
    vocabulary, synthesizer = Vocabulary.load(tokenizer), espeak.Espeak()
    r = random.Random(seed)
    rng = np.random.default_rng(r.randrange(2**32))
    out: list[tuple[Utterance, Any]] = []
    while len(out) < count:
        text = grammar.draw(r, language, test=False)
        speech = synthesizer.synthesize(text.text, espeak.random_voice(r, language))
        if speech is None:
            continue
        samples = sounds.coloured(speech.samples, rng)
        rms = float(np.sqrt(np.mean(samples**2)) + 1e-6)
        frames = features.log_power(samples * np.float32(sounds.LOUDNESS / rms)).astype(np.float16)
        tokens = heard(text.text, language, speech, vocabulary)
        phonemes = [(at, language + name) for at, name in speech.phonemes]
        utterance = Utterance(
            text.text, language, text.translation, speech.end_s, tokens, phonemes, len(frames)
        )
        out.append((utterance, frames))
    return out


def speak(folder: Path, counts: dict[Language, int], seed: int, processes: int) -> None:
    """Speak the training side of the corpus into ``folder``, whose ``tokenizer.json`` is there already."""
    tokenizer = folder / "tokenizer.json"
    parts = [
        (f"{seed} {language} {first}", language, min(_PART, counts[language] - first), tokenizer)
        for language in grammar.LANGUAGES
        for first in range(0, counts[language], _PART)
    ]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        spoken = [pair for part in pool.starmap(_spoken, parts, chunksize=1) for pair in part]
    at = 0
    for utterance, _ in spoken:
        utterance.first_frame, at = at, at + utterance.frames
    np.save(folder / "frames.npy", np.concatenate([frames for _, frames in spoken]))
    with (folder / "utterances.json").open("w") as file:
        json.dump([vars(utterance) for utterance, _ in spoken], file)


class Corpus:
    """The spoken utterances, read back, with labels for every frame."""

    def __init__(self, folder: Path) -> None:
        self.vocabulary = Vocabulary.load(folder / "tokenizer.json")
        with (folder / "utterances.json").open() as file:
            self.utterances = [Utterance(**fields) for fields in json.load(file)]
        self._frames: npt.NDArray[np.float16] = np.load(folder / "frames.npy")
        names = {name for u in self.utterances for _, name in u.phonemes if not name[2:].startswith("_")}
        self._phoneme = {name: 1 + i for i, name in enumerate(sorted(names))}
        used = {token for u in self.utterances for token, _, _ in u.tokens}
        self.piece = {token: 1 + i for i, token in enumerate(sorted(used))}
        self.phonemes, self.pieces = len(names) + 1, len(used) + 1
        self.of = {
            language: [i for i, u in enumerate(self.utterances) if u.language == language]
            for language in grammar.LANGUAGES
        }
        self.translated = [i for i, u in enumerate(self.utterances) if u.translation]
        self.translations = {
            i: self.vocabulary.encoded(f" {self.utterances[i].translation}").ids for i in self.translated
        }
        self._heard = [self._by_frame(u) for u in self.utterances]

    def frames(self, index: int) -> npt.NDArray[np.float16]:
        """Return [frames, 80] log10 mel power of an utterance."""
        u = self.utterances[index]
        return self._frames[u.first_frame : u.first_frame + u.frames]

    def heard(self, index: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
        """Return for each frame which of the utterance's tokens is heard, from 1, and which phoneme; 0 is none."""
        return self._heard[index]

    def _by_frame(self, u: Utterance) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
        order, phoneme = np.zeros(u.frames, np.int16), np.zeros(u.frames, np.int16)
        for i, (_, start_s, end_s) in enumerate(u.tokens):
            order[_span(start_s, min(end_s, u.end_s))] = i + 1
        ends: Sequence[float] = [*(at for at, _ in u.phonemes[1:]), u.end_s]
        for (start_s, sound), end_s in zip(u.phonemes, ends, strict=True):
            phoneme[_span(start_s, end_s)] = self._phoneme.get(sound, 0)
        return order, phoneme


def _span(start_s: float, end_s: float) -> slice:
    """Return the log-mel frames of a part of an utterance."""
    return slice(features.LEAD + int(start_s * 100), features.LEAD + int(end_s * 100))
