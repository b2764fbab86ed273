"""Parts of faster-whisper that have no public interface: options, measures, calls of CTranslate2, alignment of one window."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from subtitled.asr.progress import report_step
from subtitled.config.schema import DecodingConfig

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.transcribe import TranscriptionOptions


MAX_TOKENS = 448
"""Maximum tokens of a prompt and its text, of which CTranslate2 counts each text token twice: 224 tokens of text."""
MAX_TOKENS_PER_S = 20
"""Fast speech has 8 tokens a second in English and in Chinese, and twice as many in languages for which the
tokenizer has few tokens."""
MAX_ENGLISH_TOKENS_PER_S = 12
"""Nine words a second. A loop in a short window ends sooner."""
EXTRA_TOKENS = 24
"""Timestamps, and the text of a sound that was cut off."""


def options_of(model: WhisperModel, decoding: DecodingConfig, *, beam_size: int) -> TranscriptionOptions:
    """Return the options of `WhisperModel.transcribe`, without the previous text as a prompt."""
    from faster_whisper.tokenizer import Tokenizer
    from faster_whisper.transcribe import TranscriptionOptions, get_suppressed_tokens

    tokenizer = Tokenizer(model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language="en")
    return TranscriptionOptions(
        beam_size=beam_size,
        best_of=decoding.best_of,
        patience=decoding.patience,
        length_penalty=decoding.length_penalty,
        repetition_penalty=decoding.repetition_penalty,
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
        log_prob_threshold=decoding.log_prob_threshold,
        no_speech_threshold=decoding.no_speech_threshold,
        compression_ratio_threshold=decoding.compression_ratio_threshold,
        condition_on_previous_text=False,
        prompt_reset_on_temperature=0.5,
        temperatures=list(decoding.temperatures),
        initial_prompt=None,
        prefix=None,
        suppress_blank=True,
        suppress_tokens=get_suppressed_tokens(tokenizer, [-1]),
        without_timestamps=False,
        max_initial_timestamp=1.0,
        word_timestamps=False,
        prepend_punctuations="\"'“¿([{-",
        append_punctuations="\"'.。,，!！?？:：”)]}、",  # noqa: RUF001 - as upstream
        multilingual=False,
        max_new_tokens=None,
        clip_timestamps="0",
        hallucination_silence_threshold=None,
        hotwords=None,
    )


def max_tokens_of(seconds: float, language: str) -> int:
    """Return the most tokens of text that fit into so much speech."""
    per_s = MAX_ENGLISH_TOKENS_PER_S if language == "en" else MAX_TOKENS_PER_S
    return EXTRA_TOKENS + round(per_s * seconds)


def generate(
    model: WhisperModel,
    encoded: Any,
    prompts: list[list[int]],
    options: TranscriptionOptions,
    *,
    max_tokens: int,
    temperature: float = 0.0,
    samples: int | None = None,
) -> list[Any]:
    """Return CTranslate2's result for each window of an encoded batch; the prompts must be equally long.

    Beam search at temperature 0, the best of several samples above it, as `WhisperModel.generate_with_fallback`.
    No more than `max_tokens` tokens of text are decoded (`max_tokens_of`). `samples` replaces `best_of`.
    """
    if temperature > 0:
        search = {
            "beam_size": 1,
            "num_hypotheses": samples or options.best_of,
            "sampling_topk": 0,
            "sampling_temperature": temperature,
        }
    else:
        search = {"beam_size": options.beam_size, "patience": options.patience}
    # CTranslate2 decodes at most half of `max_length`, and no more than the prompt leaves of it.
    max_length = min(MAX_TOKENS, max(2 * max_tokens, len(prompts[0]) + max_tokens))
    results: list[Any] = model.model.generate(
        encoded,
        prompts,
        length_penalty=options.length_penalty,
        repetition_penalty=options.repetition_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        max_length=max_length,
        return_scores=True,
        return_no_speech_prob=True,
        suppress_blank=options.suppress_blank,
        suppress_tokens=options.suppress_tokens,
        max_initial_timestamp_index=round(options.max_initial_timestamp / model.time_precision),
        **search,
    )
    report_step()
    return results


def encode(model: WhisperModel, windows: Sequence[np.ndarray]) -> Any:
    """Return the encoder's output for windows of equal size, float32 (n_mels, frames).

    On a CPU one after the other, which takes as long: the attention of a batch would need 72 MB for each window. Each is a
    step of the lease's progress.
    """
    if model.model.device != "cpu":
        return model.encode(np.stack(windows))
    encoded = []
    for window in windows:
        encoded.append(on_host(model.encode(window)))
        report_step()
    return batch_of(np.concatenate(encoded))


def rows_of(encoded: Any, rows: Sequence[int]) -> Any:
    """Return some windows of an encoder's output; by way of the host's memory, far cheaper than encoding them again."""
    if rows == list(range(encoded.shape[0])):
        return encoded
    return batch_of(on_host(encoded)[rows])


def on_host(encoded: Any) -> np.ndarray:
    """Return an encoder's output as float32 (windows, frames, width); on a CPU without a copy."""
    from ctranslate2 import DataType, Device

    return np.asarray(encoded.to(DataType.float32).to_device(Device.cpu))


def batch_of(encoded: np.ndarray) -> Any:
    """Return an encoder's output, float32 (windows, frames, width), in the form that CTranslate2 decodes."""
    from ctranslate2 import StorageView

    return StorageView.from_array(np.ascontiguousarray(encoded))


class AlignedWords:
    """One window's alignment, in the place of the model that would compute it."""

    def __init__(self, alignment: Any, frames_per_second: int) -> None:
        self.frames_per_second = frames_per_second
        self._alignment = alignment

    def find_alignment(self, *_: Any) -> list[Any]:
        """Return the alignment that was given."""
        return [self._alignment]


def compression_ratio(text: str) -> float:
    """Return how much shorter zlib makes a text: above 2.4 it repeats itself (Whisper's own measure)."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error of CTranslate2 means that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "bad_alloc" in text
