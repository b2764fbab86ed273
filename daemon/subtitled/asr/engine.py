"""A batch of PCM to phrases, with faster-whisper's model and faster-whisper's own rules.

What `WhisperModel.transcribe` does window by window is done here for many segments at once: timestamps on, a window whose
result looks wrong decoded again at rising temperature, silence dropped by no-speech probability, and a window whose last
sentence is unfinished continued from where it stopped. The text is that of `WhisperModel.transcribe` on the same segment
with `condition_on_previous_text=False`. The batched pipeline of faster-whisper 1.2.1 does none of the four.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from subtitle.messages import WordTimestamps
from subtitled.asr.alignment import AlignmentWindow, keep_edges, needs_words, time_words
from subtitled.asr.fallback import DecodingAttempt, decode_again, measured, spelling
from subtitled.asr.faster_whisper_compat import generate, is_out_of_memory, options_of
from subtitled.asr.loops import cut_loops
from subtitled.asr.prompts import PromptBuilder, PromptRequest
from subtitled.config.layout_limits import LayoutLimits, limits_for
from subtitled.config.schema import DecodingConfig
from subtitled.core.protocol import SegmentResult
from subtitled.core.transcription import DecisionKind, DecodingDecision, Phrase, Word

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer
    from faster_whisper.transcribe import TranscriptionOptions

FRAMES_PER_SECOND = 100
WINDOW_FRAMES = 3000
"""What Whisper's encoder takes: 30 s, shorter audio padded."""
RUNS_TO_GROW = 50
"""Batches without trouble after which one twice as large is tried, where memory had run out."""

DEFAULT_DECODING = DecodingConfig()


class OutOfMemoryError(Exception):
    """The device has no memory even for one segment."""


class _State(Struct):
    """How far one segment of a batch is."""

    request: PromptRequest
    features: np.ndarray
    """float32 (n_mels, frames), 100 frames a second."""
    language: str | None
    probability: float
    seek: int = 0
    """Frames that are done."""
    phrases: list[Phrase] = []
    no_speech_prob: float = 0.0
    temperature: float = 0.0
    fallbacks: int = 0
    decisions: list[DecodingDecision] = []
    last_end_s: float = 0.0
    """End of the last phrase so far, for the word times of the next window."""


class Engine:
    """One loaded model. `features` may run in one thread while `transcribe` runs in others, as many as it has streams."""

    def __init__(
        self,
        model: WhisperModel,
        *,
        beam_size: int,
        batch_size: int,
        decoding: DecodingConfig = DEFAULT_DECODING,
        runs_to_grow: int = RUNS_TO_GROW,
        limits: Callable[[str | None], LayoutLimits] = limits_for,
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self._limit = batch_size
        """Segments decoded at once; halved when memory runs out, and growing again."""
        self._runs_since_limit = 0
        self._runs_to_grow = runs_to_grow
        self._beam_size = beam_size
        self._decoding = decoding
        self._limits_for = limits
        """What a cue in some language holds: a phrase that is more has its words timed where that is left open."""
        self._prompts = PromptBuilder(model)
        self._window = int(model.feature_extractor.nb_max_frames)

    @property
    def window_samples(self) -> int:
        """Samples at 16 kHz that the model sees at once."""
        return int(self.model.feature_extractor.n_samples)

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that the model has tokens for."""
        known = self.model.supported_languages
        if not self.model.model.is_multilingual:
            return tuple(known)
        return tuple(c for c in known if self.model.hf_tokenizer.token_to_id(f"<|{c}|>") is not None)

    def features(self, pcm: np.ndarray) -> np.ndarray:
        """Return the log-mel features, float32 (n_mels, frames), of `pcm`, int16 (n,) at 16 kHz mono."""
        audio = pcm.astype(np.float32) / 32768.0
        features: np.ndarray = self.model.feature_extractor(audio)[..., :-1]
        return features

    def transcribe(
        self,
        features: Sequence[np.ndarray],
        requests: Sequence[PromptRequest],
        *,
        word_timestamps: WordTimestamps,
    ) -> list[SegmentResult]:
        """Return the result of each segment. Its text and the edges that tokens gave its phrases are those without word times.

        Raises OutOfMemoryError when not even one segment fits; CUDA's errors come through as RuntimeError, after which
        the process is to end. A language that the model does not have is a ValueError.
        """
        states = [
            _State(
                request=request,
                features=array,
                language=request.language,
                probability=1.0 if request.language else 0.0,
                phrases=[],
                decisions=[],
            )
            for array, request in zip(features, requests, strict=True)
        ]
        for state in states:
            if state.language is not None and state.language not in self.languages:
                raise ValueError(
                    f"language {state.language!r}: the model has no such language; it has {', '.join(self.languages)}"
                )
            if state.request.task == "translate" and not self.model.model.is_multilingual:
                raise ValueError('task "translate": the model knows English alone')
        options = options_of(self.model, self._decoding, beam_size=self._beam_size)
        todo = [state for state in states if state.features.shape[-1] > 0]
        while todo:
            # CTranslate2 wants the prompts of one call to be equally long.
            size = len(self._prompt(todo[0]))
            alike = [state for state in todo if len(self._prompt(state)) == size]
            done = self._decode(alike[: self._limit], options, word_timestamps)
            gone = {id(state) for state in done if state.seek >= state.features.shape[-1]}
            todo = [state for state in todo if id(state) not in gone]
        return [_result(state) for state in states]

    # -- one batch of windows --------------------------------------------------------------------------------

    def _decode(
        self, states: list[_State], options: TranscriptionOptions, word_timestamps: WordTimestamps
    ) -> list[_State]:
        """Decode the next window of some of the first states; return those that were decoded."""
        while True:
            batch = states[: self._limit]
            before = [
                replace(state, phrases=list(state.phrases), decisions=list(state.decisions))
                for state in batch
            ]
            try:
                self._decode_batch(batch, options, word_timestamps)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise OutOfMemoryError(f"out of memory with a single segment: {error}") from error
                self._limit = max(1, len(batch) // 2)
                self._runs_since_limit = 0
                # What the failed try noted is void: windows that count as done now would never be heard.
                for state, kept in zip(batch, before, strict=True):
                    for field in state.__struct_fields__:
                        setattr(state, field, getattr(kept, field))
                continue
            self._grow()
            return batch

    def _grow(self) -> None:
        self._runs_since_limit += 1
        if self._limit < self.batch_size and self._runs_since_limit >= self._runs_to_grow:
            self._limit = min(self.batch_size, self._limit * 2)
            self._runs_since_limit = 0

    def _decode_batch(
        self, states: list[_State], options: TranscriptionOptions, word_timestamps: WordTimestamps
    ) -> None:
        from faster_whisper.audio import pad_or_trim

        sizes = [min(self._window, state.features.shape[-1] - state.seek) for state in states]
        windows = [
            pad_or_trim(state.features[:, state.seek : state.seek + size], WINDOW_FRAMES)
            for state, size in zip(states, sizes, strict=True)
        ]
        encoded = self.model.encode(np.stack(windows))
        self._detect(states, encoded)
        prompts = [self._prompt(state) for state in states]
        results = generate(self.model, encoded, prompts, options)
        raw = [
            self._read(state, prompt, result, window, size, options)
            for state, prompt, result, window, size in zip(
                states, prompts, results, windows, sizes, strict=True
            )
        ]
        tokenizers = [self._tokenizer(state) for state in states]
        unaligned = [
            AlignmentWindow(row, window_raw.parts, tokenizer, window_raw.size, state.last_end_s)
            for row, (state, tokenizer, window_raw) in enumerate(zip(states, tokenizers, raw, strict=True))
            if needs_words(window_raw.parts, tokenizer, word_timestamps, self._limits_for)
        ]
        time_words(self.model, unaligned, encoded, options)
        for state, tokenizer, window_raw in zip(states, tokenizers, raw, strict=True):
            _append(state, tokenizer, window_raw)

    def _detect(self, states: list[_State], encoded: Any) -> None:
        """Set the language where it is open, from the encoder output that is there anyway."""
        if all(state.language is not None for state in states):
            return
        if not self.model.model.is_multilingual:
            for state in states:
                state.language, state.probability = "en", 1.0
            return
        for state, ranked in zip(states, self.model.model.detect_language(encoded), strict=True):
            if state.language is None:
                token, probability = ranked[0]
                state.language, state.probability = token[2:-2], float(probability)

    def _read(
        self,
        state: _State,
        prompt: list[int],
        result: Any,
        window: np.ndarray,
        size: int,
        options: TranscriptionOptions,
    ) -> _Raw:
        """Judge one window's result, decode it again if it looks wrong, split it at its timestamps."""
        tokenizer = self._tokenizer(state)
        first = measured(result, tokenizer, options, 0.0)
        taken, decisions = decode_again(self.model, window, prompt, tokenizer, first, options)
        state.decisions += decisions
        state.fallbacks += bool(decisions)
        state.no_speech_prob = max(state.no_speech_prob, float(taken.result.no_speech_prob))
        state.temperature = max(state.temperature, float(taken.temperature))
        start = state.seek
        state.seek += size
        raw = _Raw(size=size, taken=taken)
        if taken.is_silence(options):
            state.decisions.append(_decision(DecisionKind.SILENCE, "no_speech_prob", taken))
            return raw
        raw.parts, seek, _ = self.model._split_segments_by_timestamps(  # noqa: SLF001 - Whisper's own rule
            tokenizer=tokenizer,
            tokens=taken.tokens,
            time_offset=start / FRAMES_PER_SECOND,
            segment_size=size,
            segment_duration=size / FRAMES_PER_SECOND,
            seek=start,
        )
        if len(raw.parts) == 1 and raw.parts[0]["tokens"]:
            end = start + size
            keep_edges(
                raw.parts[0],
                tokenizer,
                start_s=start / FRAMES_PER_SECOND,
                end_s=end / FRAMES_PER_SECOND,
            )
        # An unfinished last sentence is decoded again from its start, but a window must get us forward.
        if start < seek < state.seek:
            state.seek = seek
        if self._decoding.max_repeats and taken.doubt(options) == "compression_ratio":
            cut = cut_loops(raw.parts, spelling(tokenizer), tokenizer.eot, self._decoding.max_repeats)
            if cut is not None:
                raw.parts = cut
                state.decisions.append(_decision(DecisionKind.LOOP, "repetition", taken))
        return raw

    def _tokenizer(self, state: _State) -> Tokenizer:
        return self._prompts.tokenizer(state.request, state.language)

    def _prompt(self, state: _State) -> list[int]:
        return self._prompts.prompt(state.request, state.language, is_first=state.seek == 0)


class _Raw(Struct):
    """One window's result before it becomes phrases."""

    size: int
    taken: DecodingAttempt
    parts: list[dict[str, Any]] = []


def _append(state: _State, tokenizer: Tokenizer, raw: _Raw) -> None:
    """Turn a window's parts into phrases of their segment."""
    for part in raw.parts:
        text = tokenizer.decode(part["tokens"])
        if part["start"] == part["end"] or not text.strip():
            continue
        state.last_end_s = part["end"]
        state.phrases.append(
            Phrase(
                text=text,
                start_ms=round(part["start"] * 1000),
                end_ms=round(part["end"] * 1000),
                words=tuple(
                    Word(
                        text=word["word"],
                        start_ms=round(word["start"] * 1000),
                        end_ms=round(word["end"] * 1000),
                        probability=float(word["probability"]),
                    )
                    for word in part.get("words", ())
                ),
                avg_logprob=float(raw.taken.logprob),
                compression_ratio=float(raw.taken.ratio),
                no_speech_prob=float(raw.taken.result.no_speech_prob),
                temperature=float(raw.taken.temperature),
            )
        )


def _result(state: _State) -> SegmentResult:
    return SegmentResult(
        phrases=tuple(state.phrases),
        language=state.language or "",
        language_probability=state.probability,
        no_speech_prob=state.no_speech_prob,
        is_speech=bool(state.phrases),
        temperature=state.temperature,
        fallbacks=state.fallbacks,
        decisions=tuple(state.decisions),
    )


def _decision(verdict: DecisionKind, cause: str, taken: DecodingAttempt) -> DecodingDecision:
    return DecodingDecision(verdict=verdict, cause=cause, temperature=float(taken.temperature))
