"""When a window's result looks wrong, and what is taken in its place: the rules of `WhisperModel.transcribe`.

Of those one is our own: a text that still says one thing again and again after the last fallback is cut.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from subtitled.asr.faster_whisper_compat import compression_ratio, generate
from subtitled.core.transcription import DecisionKind, DecodingDecision

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer
    from faster_whisper.transcribe import TranscriptionOptions

MAX_LOOP_TOKENS = 64
"""Longest sentence that is looked for when it is repeated; some 40 words."""


class DecodingAttempt(Struct, frozen=True):
    """One decoding of one window, measured."""

    result: Any
    """CTranslate2's WhisperGenerationResult."""
    logprob: float
    """Mean log-probability of a token."""
    ratio: float
    """How much shorter zlib makes the text."""
    temperature: float

    @property
    def tokens(self) -> list[int]:
        """The tokens, timestamps among them."""
        tokens: list[int] = self.result.sequences_ids[0]
        return tokens

    def doubt(self, options: TranscriptionOptions) -> str | None:
        """Return the measure by which the result looks wrong; None when it does not, or when nobody speaks."""
        is_improbable = self.logprob < options.log_prob_threshold
        if is_improbable and self.result.no_speech_prob > options.no_speech_threshold:
            return None
        if self.ratio > options.compression_ratio_threshold:
            return "compression_ratio"
        return "log_prob" if is_improbable else None

    def is_silence(self, options: TranscriptionOptions) -> bool:
        """Say whether nobody speaks here."""
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
    """Return what is to be taken for a window whose first result may look wrong, and what was decided on the way.

    It is decoded alone at one temperature after the other until a result looks right; where none does, the most
    probable one counts, of those that do not repeat themselves if there are any, at the last temperature.
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

            # An attempt at the same text for the same audio. It is no promise: CTranslate2 was seen to sample
            # differently under one seed once its threads had begun.
            ctranslate2.set_random_seed(zlib.crc32(np.ascontiguousarray(window).tobytes()) & 0x7FFFFFFF)
            encoded = model.encode(window)
        [result] = generate(model, encoded, [prompt], options, temperature)
        attempts.append(measured(result, tokenizer, options, temperature))
        decisions.append(
            DecodingDecision(verdict=DecisionKind.FALLBACK, cause=cause, temperature=temperature)
        )
    if attempts[-1].doubt(options) is None:
        return attempts[-1], decisions
    calm = [attempt for attempt in attempts if attempt.ratio <= options.compression_ratio_threshold]
    best = max(calm or attempts, key=lambda attempt: attempt.logprob)
    return DecodingAttempt(best.result, best.logprob, best.ratio, attempts[-1].temperature), decisions


def loop_end(tokens: Sequence[int], repeats: int) -> int | None:
    """Return how many of `tokens` to keep where the rest says their end again; None where nothing loops.

    A loop is the same run of tokens at least `repeats` times one after the other, up to the end of the text (whose last
    round may be broken off), and it is more than half of the text.
    """
    for size in range(1, min(MAX_LOOP_TOKENS, len(tokens) // max(2, repeats)) + 1):
        start = len(tokens) - size
        while start > 0 and tokens[start - 1] == tokens[start - 1 + size]:
            start -= 1
        looped = len(tokens) - start
        if looped >= repeats * size and 2 * looped > len(tokens):
            return start + size
    return None


def cut_loop(parts: list[dict[str, Any]], end_of_text: int, repeats: int) -> list[dict[str, Any]] | None:
    """Return the timed parts of a window up to the end of the first round of a loop; None where nothing loops.

    Tokens from `end_of_text` on (timestamps) do not count.
    """
    spoken = [[token for token in part["tokens"] if token < end_of_text] for part in parts]
    left = loop_end([token for tokens in spoken for token in tokens], repeats)
    if left is None:
        return None
    kept = []
    for part, tokens in zip(parts, spoken, strict=True):
        if left <= 0:
            break
        kept.append(part if len(tokens) <= left else {**part, "tokens": tokens[:left]})
        left -= len(tokens)
    return kept
