"""Utterances laid into windows of up to 30 s, as batches; every batch follows from its number alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from demo_model import features, grammar, sounds, targets
from demo_model.grammar import Language
from demo_model.targets import Sentence, Target
from demo_model.utterances import Corpus

VARIANTS = 3
"""Right answers that are learnt of each window."""
_BANK = 6
_SHORT, _LONG = 40, 224
"""Tokens of a prompt, at most; Whisper takes 223."""


@dataclass(frozen=True)
class Shape:
    """What a batch is made of: windows of so many seconds, how many, the share of targets that follow a prompt."""

    seconds: float
    windows: int
    prompted: float


@dataclass
class Batch:
    """Arrays of one step: B windows of T frames (100 a second), V targets each of up to S tokens.

    mel [B, 80, T] float32; offset [B], in encoder frames; token, before, earlier, phoneme [B, T/2]: what is heard in each
    encoder frame, and the token before it and the one before that; tokens, labels [B, V, S]; where [B, V, S, 2].
    """

    mel: npt.NDArray[np.float32]
    offset: npt.NDArray[np.int64]
    token: npt.NDArray[np.int64]
    before: npt.NDArray[np.int64]
    earlier: npt.NDArray[np.int64]
    phoneme: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    where: npt.NDArray[np.int64]


@dataclass
class _Window:
    """One window: normalised frames [T, 80], its sentences (None: no speech), the labels of each frame."""

    mel: features.Frames
    language: Language
    sentences: list[Sentence] | None
    heard: npt.NDArray[np.int64]
    phoneme: npt.NDArray[np.int64]
    pieces: list[int]


class Windows:
    """Composes batches.  Speech over digital silence is composed exactly; noise is added as power."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self._corpus, self._seed = corpus, seed
        rng = np.random.default_rng(seed)
        self._bank = {
            kind: [
                features.log_power(sounds.quiet(kind, rng, 30.0))[features.LEAD : 3000 + features.LEAD]
                for _ in range(_BANK)
            ]
            for kind in sounds.QUIET
            if kind != "silence"
        }

    def batch(self, number: int, shape: Shape) -> Batch:
        """Return the batch of a number."""
        r = random.Random(f"{self._seed} {number}")
        total = int(shape.seconds * 100) // 2 * 2
        room = 1500 - total // 2
        longest = _LONG if r.random() < (0.4 if shape.seconds >= 30 else 0.15) else _SHORT
        windows, offsets, answers = [], [], []
        for _ in range(shape.windows):
            window = self._silent(r, total) if r.random() < 0.07 else self._spoken(r, total)
            offset = 0 if room <= 0 or r.random() < 0.4 else r.randrange(room)
            windows.append(window)
            offsets.append(offset)
            answers.append([self._answer(r, window, i, offset, shape, longest) for i in range(VARIANTS)])
        return _batched(windows, offsets, answers)

    # ---- sound ----------------------------------------------------------

    def _noise(self, r: random.Random, kind: str, content: int) -> features.Frames:
        """Return a piece of a noise of RMS 1."""
        piece = self._bank[kind][r.randrange(_BANK)]  # type: ignore[index]
        return np.roll(piece, r.randrange(3000), axis=0)[:content]

    def _heard(self, r: random.Random, frames: features.Frames, content: int, total: int) -> features.Frames:
        """Return the network's input for speech: level, noise, range, and zeros up to the window's end."""
        level = r.uniform(-2.2, 0.8)  # log10 of power: -22 to +8 dB
        frames = frames + level
        if r.random() < 0.4:
            kind = r.choice(("white", "white", "pink", "brown", "hum"))
            loud = level + 2 * np.log10(sounds.LOUDNESS) - r.uniform(1.5, 4.5)
            frames = features.added(frames, self._noise(r, kind, content) + np.float32(loud))
        mel = features.normalised(frames, r.uniform(0, 0.6) if r.random() < 0.2 else 0.0)
        if r.random() < 0.1:  # hide a few mel bands
            band, width = r.randrange(75), r.randrange(1, 8)
            mel[:, band : band + width] = mel.mean()
        return _padded(mel, total)

    def _silent(self, r: random.Random, total: int) -> _Window:
        """Return a window without speech."""
        content = total if r.random() < 0.6 else r.randrange(40, total)
        frames = np.full((content, features.MELS), features.FLOOR, np.float32)
        for _ in range(r.choice((0, 1, 1, 1, 2))):
            noise = self._noise(r, r.choice(sorted(self._bank)), content) + np.float32(r.uniform(-8, -0.5))
            frames = features.added(frames, noise)
        mel = _padded(features.normalised(frames), total)
        nothing = np.zeros(total, np.int64)
        return _Window(mel, r.choice(grammar.LANGUAGES), None, nothing, nothing, [])

    def _spoken(self, r: random.Random, total: int) -> _Window:
        """Return a window of sentences with pauses between them; the first and the last may be cut off."""
        corpus = self._corpus
        language: Language = "en" if r.random() < 0.6 else "zh"
        meant = language == "zh" and r.random() < 0.5  # all of it can be translated
        pool = corpus.translated if meant else corpus.of[language]
        full = r.random() < (0.5 if total > 1500 else 0.75)
        content = total if full else r.randrange(min(300, total // 2), total)
        frames = np.full((content, features.MELS), features.FLOOR, np.float32)
        heard, phoneme = np.zeros(total, np.int64), np.zeros(total, np.int64)
        sentences: list[Sentence] = []
        pieces: list[int] = []
        k = r.random()
        at = r.randrange(2, 12 if k < 0.35 else 100 if k < 0.8 else max(101, min(600, content // 2)))
        few = r.randrange(1, 4) if r.random() < (0.25 if total > 1500 else 0.1) else 99
        while len(sentences) < few and at < content - 20:
            index = pool[r.randrange(len(pool))]
            u = corpus.utterances[index]
            cut = at + int(u.end_s * 100) + 4 > content
            if cut and sentences and r.random() < 0.5:
                break
            skip = 0
            if not sentences and not cut and not meant and u.end_s > 1.5 and r.random() < 0.06:
                skip, at = r.randrange(20, int(u.end_s * 100) - 80), 2  # it began before the window
            said = corpus.frames(index)[skip:]
            a = at - features.LEAD
            b = min(a + len(said), content)
            quieter = np.float32(r.uniform(-0.4, 0.4))
            frames[a:b] = np.maximum(frames[a:b], said[: b - a].astype(np.float32) + quieter)
            order, sound = (labels[skip : skip + b - a] for labels in corpus.heard(index))
            heard[a:b] = np.where(order > 0, order + len(pieces), 0)
            phoneme[a:b] = sound
            pieces += [corpus.piece[token] for token, _, _ in u.tokens]
            sentences.append(_sentence(corpus, index, (at - skip) / 100, content / 100, cut=cut))
            if cut:
                break
            k = r.random()
            pause = (
                r.uniform(0.12, 0.5) if k < 0.55 else r.uniform(0.5, 1.6) if k < 0.92 else r.uniform(1.6, 6)
            )
            at += int((u.end_s + pause) * 100) - skip
        return _Window(self._heard(r, frames, content, total), language, sentences, heard, phoneme, pieces)

    # ---- text -----------------------------------------------------------

    def _prompt(self, r: random.Random, language: Language, longest: int) -> list[int]:
        """Return text from before, with or without its timestamps, names to expect, or random text."""
        corpus, vocabulary = self._corpus, self._corpus.vocabulary
        want, k = r.randrange(longest // 4, longest), r.random()
        if k < 0.08:
            return [r.randrange(vocabulary.eot) for _ in range(want)]
        if k < 0.25:
            words = grammar.WORDS if language == "en" else grammar.CHINESE_WORDS
            between = r.choice((", ", " ", "，" if language == "zh" else ", "))
            listed = between.join(r.choice(words) for _ in range(r.randint(1, 12)))
            return list(vocabulary.encoded(" " + listed).ids)[:want]
        stamped, at = r.random() < 0.5, 0
        said: list[int] = []
        pool = corpus.of[language]
        while len(said) < want:
            body = [token for token, _, _ in corpus.utterances[pool[r.randrange(len(pool))]].tokens]
            if stamped:
                first = vocabulary.first_timestamp + at % 1300
                body = [first, *body, first + r.randrange(40, 180)]
                at += r.randrange(60, 240)
            said += body
        return said[-want:]

    def _answer(
        self, r: random.Random, window: _Window, variant: int, offset: int, shape: Shape, longest: int
    ) -> Target:
        """Return one of a window's targets: the first with timestamps, the second without, the third either."""
        timestamps = (True, False, r.random() < 0.6)[variant]
        sentences = window.sentences
        translate = r.random() < 0.1
        if window.language == "zh" and sentences:
            meant = all(sentence.translation is not None or sentence.cut for sentence in sentences)
            translate = meant and r.random() < (0.8 if variant == VARIANTS - 1 else 0.2)
        prompt: list[int] = []
        if r.random() < shape.prompted * (1.8 if variant == VARIANTS - 1 else 0.6):
            prompt = self._prompt(r, "en" if translate else window.language, longest)
        vocabulary = self._corpus.vocabulary
        if sentences is None:
            return targets.silence(
                vocabulary, window.language, prompt, translate=translate, timestamps=timestamps
            )
        return targets.speech(
            vocabulary,
            window.language,
            sentences,
            prompt,
            translate=translate,
            timestamps=timestamps,
            offset_s=offset / 50,
            early=r,
        )


def _padded(mel: features.Frames, total: int) -> features.Frames:
    """Return a window's frames with zeros after them, as faster-whisper pads them."""
    return np.pad(mel, ((0, total - len(mel)), (0, 0)))


def _sentence(corpus: Corpus, index: int, at_s: float, content_s: float, *, cut: bool) -> Sentence:
    """Return a sentence that begins at ``at_s`` (before 0: it began before the window), with what is whole of it."""
    u = corpus.utterances[index]
    tokens = [
        (token, at_s + start_s, at_s + end_s)
        for token, start_s, end_s in u.tokens
        if at_s + start_s >= -0.02 and at_s + min(end_s, u.end_s) <= content_s + 0.03
    ]
    if at_s < 0 and u.language == "en":
        while tokens and not (corpus.vocabulary.tokenizer.id_to_token(tokens[0][0]) or "").startswith("Ġ"):
            tokens.pop(0)
    end_s = min(at_s + u.end_s, content_s)
    if cut and tokens:
        end_s = min(end_s, tokens[-1][2])
    return Sentence(max(at_s, 0.0), end_s, tokens, None if cut else corpus.translations.get(index), cut)


def _batched(windows: list[_Window], offsets: list[int], answers: list[list[Target]]) -> Batch:
    longest = max(len(target.tokens) for each in answers for target in each)
    shape = (len(windows), VARIANTS, longest)
    tokens = np.zeros(shape, np.int64)
    labels = np.full(shape, targets.IGNORED, np.int64)
    where = np.full((*shape, 2), -1, np.int64)
    for i, each in enumerate(answers):
        for j, target in enumerate(each):
            n = len(target.tokens)
            tokens[i, j, :n], labels[i, j, :n], where[i, j, :n] = target.tokens, target.labels, target.where
    heard = np.stack([window.heard[::2] for window in windows])
    token, before, earlier = np.zeros_like(heard), np.zeros_like(heard), np.zeros_like(heard)
    for i, window in enumerate(windows):
        pieces = np.array([0, 0, 0, *window.pieces])
        token[i], before[i], earlier[i] = (pieces[heard[i] + k] for k in (2, 1, 0))
    for labelled in (before, earlier):
        labelled[heard == 0] = targets.IGNORED
    return Batch(
        np.ascontiguousarray(np.stack([window.mel for window in windows]).transpose(0, 2, 1)),
        np.array(offsets, np.int64),
        token,
        before,
        earlier,
        np.stack([window.phoneme[::2] for window in windows]),
        tokens,
        labels,
        where,
    )
