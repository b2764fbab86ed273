"""When a window's result looks wrong, and which other result replaces it: the rules of `WhisperModel.transcribe`.

One rule is added: a repetition that another temperature gives as well is a refrain, and is accepted.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from subtitled.asr.faster_whisper_compat import compression_ratio, generate
from subtitled.asr.loops import find_loop
from subtitled.core.transcription import DecisionKind, DecodingDecision

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer
    from faster_whisper.transcribe import TranscriptionOptions

MAX_REFRAIN_ROUNDS = 8
"""A repetition of more rounds in one window is a loop, whatever other temperatures give."""


class DecodingAttempt(Struct, frozen=True):
    """One decoding of one window, measured."""

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


def measured(
    result: Any, tokenizer: Tokenizer, options: TranscriptionOptions, temperature: float
) -> DecodingAttempt:
    """Return a result of CTranslate2 with its measures."""
    tokens = result.sequences_ids[0]
    logprob = result.scores[0] * len(tokens) ** options.length_penalty / (len(tokens) + 1)
    return DecodingAttempt(result, logprob, compression_ratio(tokenizer.decode(tokens).strip()), temperature)


def decode_again(
    model: WhisperModel,
    window: np.ndarray,
    prompt: list[int],
    tokenizer: Tokenizer,
    first: DecodingAttempt,
    options: TranscriptionOptions,
) -> tuple[DecodingAttempt, list[DecodingDecision]]:
    """Return the result to use for a window whose first result may look wrong, and the decisions taken.

    The window is decoded alone at one temperature after the other until a result looks right. Where none does, it is
    the most probable one of those that do not repeat themselves, else of all, reported with the last temperature.
    """
    attempts = [first]
    decisions: list[DecodingDecision] = []
    encoded = None
    for temperature in options.temperatures[1:]:
        cause = attempts[-1].doubt(options)
        if cause is None:
            return attempts[-1], decisions
        if encoded is None:
            import ctranslate2

            # Meant to give the same text for the same audio. CTranslate2 was seen to sample differently under one seed
            # once its threads had started.
            ctranslate2.set_random_seed(zlib.crc32(np.ascontiguousarray(window).tobytes()) & 0x7FFFFFFF)
            encoded = model.encode(window)
        [result] = generate(model, encoded, [prompt], options, temperature)
        attempts.append(measured(result, tokenizer, options, temperature))
        decisions.append(
            DecodingDecision(verdict=DecisionKind.FALLBACK, cause=cause, temperature=temperature)
        )
        if cause == "compression_ratio" and (refrain := _refrain(attempts, tokenizer)) is not None:
            return refrain, decisions
    if attempts[-1].doubt(options) is None:
        return attempts[-1], decisions
    calm = [attempt for attempt in attempts if attempt.ratio <= options.compression_ratio_threshold]
    best = max(calm or attempts, key=lambda attempt: attempt.logprob)
    return replace(best, temperature=attempts[-1].temperature), decisions


def spelling(tokenizer: Tokenizer) -> Callable[[int], str]:
    """Return a function from a token to what counts of it when words are compared: letters and digits, without case.

    A token that is a part of a character stands for itself.
    """

    def spell(token: int) -> str:
        text = tokenizer.decode([token])
        if "\ufffd" in text:
            return f"<{token}>"
        return "".join(char for char in text.casefold() if char.isalnum())

    return spell


def _refrain(attempts: Sequence[DecodingAttempt], tokenizer: Tokenizer) -> DecodingAttempt | None:
    """Return the earliest attempt that repeats itself as the last one does, word for word; None where none does.

    A loop continues for an arbitrary number of rounds, or until there is no room for more tokens.
    """
    spell = spelling(tokenizer)

    def words(attempt: DecodingAttempt) -> list[str]:
        return [word for token in attempt.tokens if token < tokenizer.eot and (word := spell(token))]

    last = words(attempts[-1])
    loop = find_loop(last, 2)
    if loop is None or loop.rounds > MAX_REFRAIN_ROUNDS:
        return None
    same = next((attempt for attempt in attempts[:-1] if words(attempt) == last), None)
    return None if same is None else replace(same, is_refrain=True)
