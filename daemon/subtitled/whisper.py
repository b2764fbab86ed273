"""What faster-whisper keeps to itself: its default options, its measures, one window's alignment."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.transcribe import TranscriptionOptions


def default_options(model: WhisperModel, *, beam_size: int, word_timestamps: bool) -> TranscriptionOptions:
    """Return the defaults of `WhisperModel.transcribe`, without the previous text as a prompt."""
    from faster_whisper.tokenizer import Tokenizer
    from faster_whisper.transcribe import TranscriptionOptions, get_suppressed_tokens

    tokenizer = Tokenizer(model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language="en")
    return TranscriptionOptions(
        beam_size=beam_size,
        best_of=5,
        patience=1,
        length_penalty=1,
        repetition_penalty=1,
        no_repeat_ngram_size=0,
        log_prob_threshold=-1.0,
        no_speech_threshold=0.6,
        compression_ratio_threshold=2.4,
        condition_on_previous_text=False,
        prompt_reset_on_temperature=0.5,
        temperatures=[0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        initial_prompt=None,
        prefix=None,
        suppress_blank=True,
        suppress_tokens=get_suppressed_tokens(tokenizer, [-1]),
        without_timestamps=False,
        max_initial_timestamp=1.0,
        word_timestamps=word_timestamps,
        prepend_punctuations="\"'“¿([{-",
        append_punctuations="\"'.。,，!！?？:：”)]}、",  # noqa: RUF001 - as upstream
        multilingual=False,
        max_new_tokens=None,
        clip_timestamps="0",
        hallucination_silence_threshold=None,
        hotwords=None,
    )


class Aligned:
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
