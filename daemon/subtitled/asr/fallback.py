"""When a window's result looks wrong, and which other result replaces it: the rules of `WhisperModel.transcribe`.

One rule is added: a repetition that another temperature gives as well is a refrain, and is accepted.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from subtitled.asr.faster_whisper_compat import compression_ratio, generate, max_tokens_of, rows_of
from subtitled.asr.loops import find_loop
from subtitled.core.transcription import DecisionKind, DecodingDecision

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer
    from faster_whisper.transcribe import TranscriptionOptions

MAX_ATTEMPTS = 100
"""More than there are temperatures."""
MAX_REFRAIN_ROUNDS = 8
"""A repetition of more rounds in one window is a loop, whatever other temperatures give."""


class DecodingAttempt(Struct, frozen=True):
    """One decoding of one window, with its measures."""

    result: Any
    """CTranslate2's WhisperGenerationResult."""
    logprob: float
    """Mean log-probability of a token."""
    ratio: float
    """How much shorter zlib makes the text."""
    temperature: float
    is_refrain: bool = False
    """Its text repeats itself, and another temperature gave the same text."""

    @property
    def tokens(self) -> list[int]:
        """The tokens, timestamps among them."""
        tokens: list[int] = self.result.sequences_ids[0]
        return tokens

    def doubt(self, options: TranscriptionOptions) -> str | None:
        """Return the measure by which the result looks wrong; None where it looks right, or there is no speech."""
        is_improbable = self.logprob < options.log_prob_threshold
        if is_improbable and self.result.no_speech_prob > options.no_speech_threshold:
            return None
        if self.ratio > options.compression_ratio_threshold and not self.is_refrain:
            return "compression_ratio"
        return "log_prob" if is_improbable else None

    def is_silence(self, options: TranscriptionOptions) -> bool:
        """Return whether there is no speech in the window."""
        is_sure = self.logprob > options.log_prob_threshold
        return self.result.no_speech_prob > options.no_speech_threshold and not is_sure


def scored_attempt(
    result: Any, tokenizer: Tokenizer, options: TranscriptionOptions, temperature: float
) -> DecodingAttempt:
    """Return a result of CTranslate2 with its measures."""
    tokens = result.sequences_ids[0]
    logprob = result.scores[0] * len(tokens) ** options.length_penalty / (len(tokens) + 1)
    return DecodingAttempt(result, logprob, compression_ratio(tokenizer.decode(tokens).strip()), temperature)


class DecodedWindow(Struct):
    """The attempts at one window, until one looks right."""

    prompt: list[int]
    tokenizer: Tokenizer
    seconds: float
    """Length of its audio."""
    attempts: list[DecodingAttempt]
    """The first at temperature 0."""
    decisions: list[DecodingDecision] = []
    accepted: DecodingAttempt | None = None
    """Set where another attempt gave the same text."""
    max_attempts: int = MAX_ATTEMPTS
    """Samples are drawn for it until it has so many."""

    @property
    def max_tokens(self) -> int:
        """The most tokens of text that its audio can have."""
        return max_tokens_of(self.seconds, self.tokenizer.language_code)

    def doubt(self, options: TranscriptionOptions) -> str | None:
        """Return why the window is to be decoded again; None where its last attempt looks right."""
        return None if self.accepted else self.attempts[-1].doubt(options)

    def add(self, attempt: DecodingAttempt, cause: str) -> None:
        """Take one more attempt, which `cause` led to, and accept the text if an earlier one has it too."""
        self.attempts.append(attempt)
        spell = spelling(self.tokenizer)
        words = [_words(one, self.tokenizer, spell) for one in self.attempts]
        if words[-1] not in words[:-1]:
            return
        same = self.attempts[words.index(words[-1])]
        if cause == "compression_ratio":
            self.accepted = replace(same, is_refrain=True) if _is_refrain(words[-1]) else None
        else:
            self.accepted = replace(same, temperature=attempt.temperature)

    def best(self, options: TranscriptionOptions) -> DecodingAttempt:
        """Return the result to use.

        Where no attempt looks right, it is the most probable one of those that do not repeat themselves, else of all,
        reported with the last temperature.
        """
        if self.accepted is not None:
            return self.accepted
        last = self.attempts[-1]
        if last.doubt(options) is None:
            return last
        calm = [one for one in self.attempts if one.ratio <= options.compression_ratio_threshold]
        best = max(calm or self.attempts, key=lambda one: one.logprob)
        return replace(best, temperature=last.temperature)


def decode_first(
    model: WhisperModel, encoded: Any, windows: Sequence[DecodedWindow], options: TranscriptionOptions
) -> None:
    """Decode the windows of an encoded batch at temperature 0, together those whose prompts are equally long."""
    rows_by_length: dict[int, list[int]] = {}
    for row, window in enumerate(windows):
        rows_by_length.setdefault(len(window.prompt), []).append(row)
    for rows in rows_by_length.values():
        alike = [windows[row] for row in rows]
        results = generate(
            model,
            rows_of(encoded, rows),
            [window.prompt for window in alike],
            options,
            max_tokens=max(window.max_tokens for window in alike),
        )
        for window, result in zip(alike, results, strict=True):
            window.attempts.append(scored_attempt(result, window.tokenizer, options, 0.0))


def decode_again(
    model: WhisperModel, encoded: Any, windows: Sequence[DecodedWindow], options: TranscriptionOptions
) -> None:
    """Decode windows of an encoded batch at one temperature after the other, all that still look wrong together.

    CTranslate2 copies the encoder's output for each sample, which a beam search does not: the attention to five copies
    makes five samples 2.5 times as expensive as five beams. So the first temperature, at which samples hardly differ, has
    a single one.
    """
    import ctranslate2

    if len(options.temperatures) > 1:
        # Meant to give the same text for the same audio in the same lease. CTranslate2 was seen to sample differently
        # under one seed once its threads had started.
        ctranslate2.set_random_seed(sum(_seed(window) for window in windows) & 0x7FFFFFFF)
    for place, temperature in enumerate(options.temperatures[1:]):
        left = [
            (row, window, cause)
            for row, window in enumerate(windows)
            if (cause := window.doubt(options)) is not None and len(window.attempts) < window.max_attempts
        ]
        if not left:
            return
        results = generate(
            model,
            rows_of(encoded, [row for row, _, _ in left]),
            [window.prompt for _, window, _ in left],
            options,
            max_tokens=max(window.max_tokens for _, window, _ in left),
            temperature=temperature,
            samples=None if place else 1,
        )
        for (_, window, cause), result in zip(left, results, strict=True):
            window.decisions.append(
                DecodingDecision(verdict=DecisionKind.FALLBACK, cause=cause, temperature=temperature)
            )
            window.add(scored_attempt(result, window.tokenizer, options, temperature), cause)


def _seed(window: DecodedWindow) -> int:
    return zlib.crc32(repr(window.attempts[0].tokens).encode())


def spelling(tokenizer: Tokenizer) -> Callable[[int], str]:
    """Return a function from a token to the part of it that is compared: letters and digits, without case.

    A token that is a part of a character stands for itself.
    """

    def spell(token: int) -> str:
        text = tokenizer.decode([token])
        if "\ufffd" in text:
            return f"<{token}>"
        return "".join(char for char in text.casefold() if char.isalnum())

    return spell


def _words(attempt: DecodingAttempt, tokenizer: Tokenizer, spell: Callable[[int], str]) -> list[str]:
    return [word for token in attempt.tokens if token < tokenizer.eot and (word := spell(token))]


def _is_refrain(words: Sequence[str]) -> bool:
    """Return whether a text that two attempts gave repeats itself as songs do.

    A loop continues for an arbitrary number of rounds, or until there is no room for more tokens.
    """
    loop = find_loop(words, 2)
    return loop is not None and loop.rounds <= MAX_REFRAIN_ROUNDS
