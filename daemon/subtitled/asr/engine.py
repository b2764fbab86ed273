"""A batch of PCM to phrases, with faster-whisper's model and rules.

What `WhisperModel.transcribe` does window by window is done here for many segments at once: timestamps on, a window whose
result looks wrong decoded again at rising temperature, silence dropped by no-speech probability. The batched pipeline of
faster-whisper 1.2.1 does none of these. Where a window ends is decided by coverage instead of by its last timestamp: the
unfinished last sentence of a segment is accepted, and speech without text is decoded again (`coverage`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from subtitle.messages import WordTimestamps
from subtitled.asr.alignment import AlignmentWindow, is_rushed, needs_words, split, time_words
from subtitled.asr.coverage import (
    LEAD_S,
    MIN_ANNOUNCED_S,
    MIN_DECODED_AGAIN_S,
    MIN_REPORTED_S,
    SLACK_S,
    TimeRange,
    is_near_speech,
    loud_frames,
    moved_to_speech,
    snapped_to_sound,
    trimmed_to_words,
    uncovered_speech,
)
from subtitled.asr.fallback import (
    MAX_ATTEMPTS,
    DecodedWindow,
    DecodingAttempt,
    decode_again,
    decode_first,
    scored_attempt,
    spelling,
)
from subtitled.asr.faster_whisper_compat import (
    batch_of,
    encode,
    generate,
    is_out_of_memory,
    max_tokens_of,
    on_host,
    options_of,
)
from subtitled.asr.language_choice import (
    MAX_CANDIDATES,
    UNCERTAIN,
    language_runs,
    most_certain,
    parts_by_pauses,
    parts_to_compare,
)
from subtitled.asr.log_mel import log_mel
from subtitled.asr.loops import cut_loops
from subtitled.asr.prompts import MIXED, PromptBuilder, PromptRequest
from subtitled.config.layout_limits import LayoutLimits, limits_for
from subtitled.config.schema import SAMPLE_RATE, DecodingConfig
from subtitled.core.plan import SegmentSound, Span
from subtitled.core.protocol import SegmentResult
from subtitled.core.transcription import DecisionKind, DecodingDecision, Phrase, Word

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer
    from faster_whisper.transcribe import TranscriptionOptions
    from numpy.typing import NDArray

W = TypeVar("W")
R = TypeVar("R")

FRAMES_PER_SECOND = 100
WINDOW_FRAMES = 3000
"""Length of the encoder's input: 30 s; shorter audio is padded."""
PADDING_FRAMES = 500
"""Silence after shorter audio, without which Whisper repeats its last words. It was trained with silence up to 30 s, but
an encoder takes a quarter of the time for 15 s. A result that looks wrong is decoded again with silence up to 30 s."""
SIZE_FRAMES = 500
"""Windows are padded to multiples of this, so that similar ones share a batch."""
FIRST_WORD_LATE_S = 1.0
"""The first word of a phrase starts with the phrase, if the alignment puts it no later than this."""
SHORT_SOUND_S = 2.0
GUESS_LOGPROB = -0.5
GUESS_NO_SPEECH_PROB = 0.3
"""A text for so little speech, so improbable, with so little certainty of speech, is not used; it takes a
fallback to get there. Real laughter has -1.2 and 0.5, and became "lol"."""
MIN_SHORTER_FRAMES = 50
"""A window of speech without text is followed by another one that is at least so much shorter."""
KNOWN_WITHIN_MS = 3_000
MIN_KNOWN_LETTERS = 8
"""A second decoding may repeat a phrase that is so near, or so much of it."""
RUNS_TO_GROW = 50
"""Batches without trouble after which one twice as large is tried, where memory had run out."""

DEFAULT_DECODING = DecodingConfig()
OnResults = Callable[[Mapping[int, SegmentResult]], None]
"""Called with finished results, by the place of their segments, while others are still decoded."""


class OutOfMemoryError(Exception):
    """The device has no memory even for one segment."""


class _Segment(Struct):
    """What is known about one segment of a batch so far."""

    request: PromptRequest
    features: np.ndarray
    """float32 (n_mels, frames), 100 frames a second."""
    speech: tuple[TimeRange, ...]
    seams_s: tuple[float, ...]
    language: str | None
    """The language of most of it; None until it is detected."""
    probability: float
    phrases: list[Phrase] = []
    no_speech_prob: float = 0.0
    temperature: float = 0.0
    fallbacks: int = 0
    windows: int = 0
    decisions: list[DecodingDecision] = []


class _Window(Struct, frozen=True):
    """A part of a segment that the model sees at once: frames [start, end) of its features."""

    segment: _Segment
    start: int
    end: int
    until: int
    """Windows that follow end here, at the end of the segment or of the run in its language."""
    language: str | None = None
    """None: that of the segment."""
    is_repeat: bool = False
    """Its speech was in a window before, and got no text."""
    is_whole: bool = False
    """It is padded to `WINDOW_FRAMES`, because its result looked wrong with less padding."""

    @property
    def padded_frames(self) -> int:
        """Frames that the encoder is given for it."""
        frames = self.end - self.start + PADDING_FRAMES
        is_whole = self.is_whole or not (self.is_repeat or self.segment.request.may_be_short)
        return WINDOW_FRAMES if is_whole else min(WINDOW_FRAMES, -(-frames // SIZE_FRAMES) * SIZE_FRAMES)

    @property
    def stretch(self) -> TimeRange:
        return TimeRange(self.start / FRAMES_PER_SECOND, self.end / FRAMES_PER_SECOND)


class _DoubtfulWindow(Struct, frozen=True):
    """A window whose results look wrong so far; `encoded`: the encoder's output, float32 (frames, width)."""

    window: _Window
    decoded: DecodedWindow
    encoded: np.ndarray


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
        """The limits of a cue in some language; with word times "auto" the words of larger phrases are timed."""
        self._prompts = PromptBuilder(model, decoding.chinese_prompt)
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
        return log_mel(pcm, self.model.feature_extractor.mel_filters)

    def transcribe(
        self,
        features: Sequence[np.ndarray],
        requests: Sequence[PromptRequest],
        *,
        sounds: Sequence[SegmentSound] = (),
        word_timestamps: WordTimestamps,
        on_results: OnResults = lambda _: None,
    ) -> list[SegmentResult]:
        """Return the result of each segment; word times change neither its text nor the times of closed phrases.

        `sounds` contains where each segment has speech; without it all is speech. Raises OutOfMemoryError when not even
        one segment fits, and what `on_results` raises; CUDA's errors come through as RuntimeError, after which the process
        must end. A language that the model does not have is a ValueError.
        """
        all_speech = [
            SegmentSound((Span(0, array.shape[-1] * SAMPLE_RATE // FRAMES_PER_SECOND),)) for array in features
        ]
        known = [
            sound if sound.speech else default
            for sound, default in zip(sounds or all_speech, all_speech, strict=True)
        ]
        segments = [
            _Segment(
                request=request,
                features=array,
                speech=tuple(
                    TimeRange(span.start / SAMPLE_RATE, span.end / SAMPLE_RATE) for span in sound.speech
                ),
                seams_s=tuple(seam / SAMPLE_RATE for seam in sound.seams),
                language=None if request.language == MIXED else request.language,
                probability=0.0 if request.language in {None, MIXED} else 1.0,
                phrases=[],
                decisions=[],
            )
            for array, request, sound in zip(features, requests, known, strict=True)
        ]
        is_mixed = [request.language == MIXED for request in requests]
        for segment in segments:
            if segment.language is not None and segment.language not in self.languages:
                raise ValueError(
                    f"language {segment.language!r}: the model does not support it; it supports {', '.join(self.languages)}"
                )
            if segment.request.task == "translate" and not self.model.model.is_multilingual:
                raise ValueError('task "translate": the model supports English only')
        options = options_of(self.model, self._decoding, beam_size=self._beam_size)
        todo: list[_Window] = []
        for segment, has_several in zip(segments, is_mixed, strict=True):
            frames = segment.features.shape[-1]
            if has_several and frames and self.model.model.is_multilingual:
                todo += self._windows_by_language(segment)
            elif frames:
                todo.append(_Window(segment, 0, min(self._window, frames), frames))
        doubtful: list[_DoubtfulWindow] = []
        reported: set[int] = set()
        while todo or doubtful:
            if not todo:
                # All windows of a lease that look wrong are decoded again together.
                again = _alike(doubtful, lambda one: (len(one.decoded.prompt), one.encoded.shape))
                done_again, todo = self._with_memory(
                    again, lambda batch: self._decode_doubtful(batch, options, word_timestamps)
                )
                doubtful = _without(doubtful, done_again)
            else:
                alike = _alike(todo, self._kind)
                done, (following, found) = self._with_memory(
                    alike, lambda batch: self._decode_batch(batch, options, word_timestamps)
                )
                # Speech that is decoded again comes last, so that the segments of a lease share batches for it.
                todo = [*_without(todo, done), *following]
                doubtful += found
            unfinished = {id(window.segment) for window in (*todo, *(one.window for one in doubtful))}
            finished = [
                at
                for at, segment in enumerate(segments)
                if at not in reported and id(segment) not in unfinished
            ]
            if unfinished and finished:
                reported.update(finished)
                on_results({at: _result(segments[at]) for at in finished})
        return [_result(segment) for segment in segments]

    def _kind(self, window: _Window) -> tuple[int, int]:
        """Return what must be equal for windows of one batch: CTranslate2 requires prompts of one length.

        On a CPU also their size: all are padded to the longest one, and several small batches cost no more than one.
        """
        is_cpu = self.model.model.device == "cpu"
        return len(self._prompt(window)), window.padded_frames if is_cpu else 0

    # -- one batch of windows --------------------------------------------------------------------------------

    def _with_memory(self, windows: list[W], decode: Callable[[list[W]], R]) -> tuple[list[W], R]:
        """Call `decode` with as many of the first windows as fit into memory; return those, and what it returns.

        When memory runs out, `decode` must have changed nothing.
        """
        while True:
            batch = windows[: self._limit]
            try:
                found = decode(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise OutOfMemoryError(f"out of memory with a single segment: {error}") from error
                self._limit = max(1, len(batch) // 2)
                self._runs_since_limit = 0
                continue
            self._grow()
            return batch, found

    def _grow(self) -> None:
        self._runs_since_limit += 1
        if self._limit < self.batch_size and self._runs_since_limit >= self._runs_to_grow:
            self._limit = min(self.batch_size, self._limit * 2)
            self._runs_since_limit = 0

    def _decode_batch(
        self, windows: list[_Window], options: TranscriptionOptions, word_timestamps: WordTimestamps
    ) -> tuple[list[_Window], list[_DoubtfulWindow]]:
        """Decode a batch; return the windows that follow from it, and those whose results look wrong."""
        size = max(window.padded_frames for window in windows)
        arrays = [_padded(window.segment.features[:, window.start : window.end], size) for window in windows]
        encoded = encode(self.model, arrays)
        self._detect([window.segment for window in windows], encoded, options)
        decoded = [
            DecodedWindow(
                prompt=self._prompt(window),
                tokenizer=self._tokenizer(window),
                seconds=window.stretch.end_s - window.stretch.start_s,
                attempts=[],
                decisions=[],
                max_attempts=2 if window.is_repeat else MAX_ATTEMPTS,
            )
            for window in windows
        ]
        decode_first(self.model, encoded, decoded, options)
        final: list[tuple[int, _Window, DecodedWindow]] = []
        doubtful: list[tuple[int, _Window, DecodedWindow]] = []
        to_pad: list[_Window] = []
        for row, (window, one) in enumerate(zip(windows, decoded, strict=True)):
            doubt = one.doubt(options)
            # Speech that got no text before gets only a certain one. A loop there stays one with silence up to 30 s, but a
            # sample often is none; other doubtful text is noise, and no sample is drawn for it.
            is_loop = window.is_repeat and doubt == "compression_ratio"
            if doubt is None:
                final.append((row, window, one))
            elif size < WINDOW_FRAMES and not is_loop:
                to_pad.append(replace(window, is_whole=True))
            elif (window.is_repeat and not is_loop) or len(options.temperatures) == 1:
                final.append((row, window, one))
            else:
                doubtful.append((row, window, one))
        following = [*to_pad, *self._finish(final, encoded, options, word_timestamps)]
        rows = on_host(encoded) if doubtful else None
        return following, [
            _DoubtfulWindow(window, one, rows[row].copy())
            for row, window, one in doubtful
            if rows is not None
        ]

    def _decode_doubtful(
        self, doubtful: list[_DoubtfulWindow], options: TranscriptionOptions, word_timestamps: WordTimestamps
    ) -> list[_Window]:
        """Decode windows whose results look wrong at higher temperatures; return the windows that follow from them."""
        encoded = batch_of(np.stack([one.encoded for one in doubtful]))
        decoded = [
            replace(one.decoded, attempts=[*one.decoded.attempts], decisions=[*one.decoded.decisions])
            for one in doubtful
        ]
        decode_again(self.model, encoded, decoded, options)
        rows = [
            (row, one.window, again) for row, (one, again) in enumerate(zip(doubtful, decoded, strict=True))
        ]
        return self._finish(rows, encoded, options, word_timestamps)

    def _finish(
        self,
        decoded: list[tuple[int, _Window, DecodedWindow]],
        encoded: Any,
        options: TranscriptionOptions,
        word_timestamps: WordTimestamps,
    ) -> list[_Window]:
        """Add the phrases of decoded windows to their segments; return the windows that follow from them.

        Each window comes with its row in `encoded`.
        """
        raw = [self._read(window, one, options) for _, window, one in decoded]
        unaligned = [
            AlignmentWindow(
                row=row,
                parts=window_raw.parts,
                tokenizer=one.tokenizer,
                frames=window.end - window.start,
                last_end_s=window_raw.last_end_s,
            )
            for (row, window, one), window_raw in zip(decoded, raw, strict=True)
            if self._needs_words(window, window_raw, word_timestamps)
        ]
        time_words(self.model, unaligned, encoded, options)
        return [
            following
            for (_, window, _), window_raw in zip(decoded, raw, strict=True)
            for following in self._append(window, window_raw, with_words=bool(word_timestamps))
        ]

    def _detect(self, segments: list[_Segment], encoded: Any, options: TranscriptionOptions) -> None:
        """Detect the languages that are not given, from the encoder output of the batch; check uncertain ones."""
        if all(segment.language is not None for segment in segments):
            return
        if not self.model.model.is_multilingual:
            for segment in segments:
                segment.language, segment.probability = "en", 1.0
            return
        for segment, ranked in zip(segments, self.model.model.detect_language(encoded), strict=True):
            if segment.language is None:
                found = [(token[2:-2], float(probability)) for token, probability in ranked[:MAX_CANDIDATES]]
                is_certain = found[0][1] >= UNCERTAIN
                segment.language, segment.probability = (
                    found[0] if is_certain else self._compare_languages(segment, found, options)
                )

    def _windows_by_language(self, segment: _Segment) -> list[_Window]:
        """Return a window for each run of one language in a segment; the language of most is that of the segment."""
        frames = segment.features.shape[-1]
        parts = parts_by_pauses(segment.speech)
        detected: list[list[tuple[str, float]]] = []

        def detect(batch: list[list[TimeRange]]) -> list[list[tuple[str, float]]]:
            arrays = [
                _padded(
                    segment.features[:, _frame(part[0].start_s - LEAD_S) : _frame(part[-1].end_s + LEAD_S)]
                )
                for part in batch
            ]
            found = self.model.model.detect_language(encode(self.model, arrays))
            return [[(token[2:-2], float(probability)) for token, probability in row] for row in found]

        while len(detected) < len(parts):
            _, found = self._with_memory(parts[len(detected) :], detect)
            detected += found
        runs = language_runs(parts, detected, frames / FRAMES_PER_SECOND)
        longest = max(
            runs, key=lambda run: sum(r.end_s - r.start_s for r in runs if r.language == run.language)
        )
        segment.language, segment.probability = longest.language, longest.probability
        windows = []
        for run in runs:
            start, until = _frame(run.start_s), min(_frame(run.end_s), frames)
            windows.append(
                _Window(segment, start, min(start + self._window, until), until, language=run.language)
            )
        return [window for window in windows if window.start < window.end]

    def _compare_languages(
        self, segment: _Segment, candidates: list[tuple[str, float]], options: TranscriptionOptions
    ) -> tuple[str, float]:
        """Return the candidate language in which the longest parts of a segment are decoded with most certainty."""
        seams = [round(seam_s * FRAMES_PER_SECOND) for seam_s in segment.seams_s]
        parts = parts_to_compare(min(self._window, segment.features.shape[-1]), seams)
        encoded = encode(self.model, [_padded(segment.features[:, start:end]) for start, end in parts])
        seconds = max(end - start for start, end in parts) / FRAMES_PER_SECOND
        logprobs = {}
        for language, _ in candidates:
            prompt = self._prompts.prompt(segment.request, language, is_first=False)
            tokenizer = self._prompts.tokenizer(segment.request, language)
            max_tokens = max_tokens_of(seconds, language)
            results = generate(self.model, encoded, [prompt] * len(parts), options, max_tokens=max_tokens)
            logprobs[language] = [
                scored_attempt(result, tokenizer, options, 0.0).logprob for result in results
            ]
        return most_certain(parts, candidates, logprobs)

    def _read(self, window: _Window, decoded: DecodedWindow, options: TranscriptionOptions) -> _Raw:
        """Return the result of one window, split at its timestamps; the segment is not changed yet."""
        segment, tokenizer = window.segment, decoded.tokenizer
        taken = decoded.best(options)
        before = [phrase.end_ms / 1000 for phrase in segment.phrases]
        begin_s = window.stretch.start_s
        raw = _Raw(
            taken=taken,
            decisions=[*decoded.decisions],
            last_end_s=max((end_s for end_s in before if end_s <= begin_s), default=0.0),
        )
        no_speech_prob = float(taken.result.no_speech_prob)
        if window.is_repeat and (taken.doubt(options) or no_speech_prob > options.no_speech_threshold):
            return raw
        if taken.is_silence(options) or self._is_noise(window, taken):
            raw.decisions.append(_decision(DecisionKind.SILENCE, "no_speech_prob", taken))
            return raw
        raw.parts = split(taken.tokens, tokenizer.timestamp_begin, window.start, window.end)
        if self._decoding.max_repeats and taken.doubt(options) == "compression_ratio":
            cut = cut_loops(raw.parts, spelling(tokenizer), tokenizer.eot, self._decoding.max_repeats)
            if cut is not None:
                raw.parts = cut
                raw.decisions.append(_decision(DecisionKind.LOOP, "repetition", taken))
        return raw

    def _is_noise(self, window: _Window, taken: DecodingAttempt) -> bool:
        """Return whether the text is a guess at a short sound: laughter, a breath, a knock."""
        speech_s = sum(span.end_s - span.start_s for span in _inside(window))
        is_guess = taken.temperature > 0 and taken.logprob < GUESS_LOGPROB
        return is_guess and speech_s <= SHORT_SOUND_S and taken.result.no_speech_prob > GUESS_NO_SPEECH_PROB

    def _needs_words(self, window: _Window, raw: _Raw, wanted: WordTimestamps) -> bool:
        """Return whether the words of a window are to be timed: as wanted, and where its phrases have no certain end."""
        tokenizer = self._tokenizer(window)
        return bool(raw.parts) and (
            needs_words(raw.parts, tokenizer, wanted, self._limits_for)
            or any(part["tokens"][-1] < tokenizer.timestamp_begin for part in raw.parts)
            or any(is_rushed(part, tokenizer.timestamp_begin) for part in raw.parts)
            or any(
                part["start"] < seam_s < part["end"]
                for part in raw.parts
                for seam_s in window.segment.seams_s
            )
        )

    def _append(self, window: _Window, raw: _Raw, *, with_words: bool) -> list[_Window]:
        """Add the phrases of a window to its segment; return the windows for speech that they leave out."""
        segment, tokenizer = window.segment, self._tokenizer(window)
        segment.decisions += raw.decisions
        segment.fallbacks += any(one.verdict == DecisionKind.FALLBACK for one in raw.decisions)
        segment.windows += 1
        if raw.parts or not window.is_repeat:
            segment.temperature = max(segment.temperature, float(raw.taken.temperature))
        if not window.is_repeat:
            segment.no_speech_prob = max(segment.no_speech_prob, float(raw.taken.result.no_speech_prob))
        for phrase in _phrases(raw, tokenizer, segment):
            if window.is_repeat and _is_known(phrase, segment.phrases):
                continue
            language = "" if window.language == segment.language else window.language or ""
            segment.phrases.append(
                replace(phrase, language=language, words=phrase.words if with_words else ())
            )
        segment.phrases.sort(key=lambda phrase: phrase.start_ms)
        _move_onto_speech(segment)
        following = []
        if window.end < window.until and not window.is_repeat:
            start = max((round(part["end"] * FRAMES_PER_SECOND) for part in raw.parts), default=window.end)
            start = start if window.start < start < window.end else window.end
            end = min(start + self._window, window.until)
            following.append(_Window(segment, start, end, window.until, window.language))
        if not raw.parts:
            return following
        inside = _inside(window)
        is_announced = len(raw.taken.tokens) > 1 and min(raw.taken.tokens[-2:]) >= tokenizer.timestamp_begin
        for run in uncovered_speech(inside, _covered(segment), min_s=MIN_ANNOUNCED_S):
            if run.speech_s < MIN_DECODED_AGAIN_S and not (is_announced and run.end_s >= inside[-1].end_s):
                continue
            # Where a phrase ended just before, the timestamp of its end is the best place to go on from.
            starts_s = [
                phrase.end_ms / 1000 for phrase in segment.phrases if phrase.end_ms / 1000 <= run.start_s
            ]
            start_s = max([run.start_s - SLACK_S - LEAD_S, *starts_s])
            start = max(window.start, round(start_s * FRAMES_PER_SECOND))
            is_last = run.end_s >= inside[-1].end_s
            end = window.end if is_last else round((run.end_s + LEAD_S) * FRAMES_PER_SECOND)
            end = min(end, window.end)
            # A window that is hardly shorter would get the same text again, without end.
            if window.is_repeat and end - start > window.end - window.start - MIN_SHORTER_FRAMES:
                continue
            following.append(_Window(segment, start, end, window.until, window.language, is_repeat=True))
        return following

    def _tokenizer(self, window: _Window) -> Tokenizer:
        return self._prompts.tokenizer(window.segment.request, window.language or window.segment.language)

    def _prompt(self, window: _Window) -> list[int]:
        language = window.language or window.segment.language
        return self._prompts.prompt(window.segment.request, language, is_first=window.start == 0)


def _alike(windows: list[W], kind: Callable[[W], object]) -> list[W]:
    """Return the windows of the same kind as the first one."""
    first = kind(windows[0])
    return [window for window in windows if kind(window) == first]


def _without(windows: list[W], done: list[W]) -> list[W]:
    decoded = {id(window) for window in done}
    return [window for window in windows if id(window) not in decoded]


def _inside(window: _Window) -> list[TimeRange]:
    """Return the speech in a window."""
    first_s, last_s = window.stretch.start_s, window.stretch.end_s
    return [
        TimeRange(max(span.start_s, first_s), min(span.end_s, last_s))
        for span in window.segment.speech
        if span.start_s < last_s and span.end_s > first_s
    ]


def _frame(time_s: float) -> int:
    return max(0, round(time_s * FRAMES_PER_SECOND))


class _Raw(Struct):
    """One window's result before it becomes phrases."""

    taken: DecodingAttempt
    decisions: list[DecodingDecision]
    last_end_s: float
    """End of the phrase before the window; 0 if there is none."""
    parts: list[dict[str, Any]] = []


def _phrases(raw: _Raw, tokenizer: Tokenizer, segment: _Segment) -> list[Phrase]:
    """Return a window's parts as phrases."""
    phrases = []
    is_loud = loud_frames(segment.features, segment.speech)
    for part in raw.parts:
        text = tokenizer.decode(part["tokens"])
        if part["start"] == part["end"] or not text.strip():
            continue
        start_s, end_s = snapped_to_sound(part["start"], part["end"], segment.speech, is_loud)
        timed = part.get("words", ())
        if timed:
            start_s, end_s = trimmed_to_words(
                TimeRange(start_s, end_s), TimeRange(timed[0]["start"], timed[-1]["end"]), segment.speech
            )
        if timed and timed[0]["start"] - start_s <= FIRST_WORD_LATE_S:
            # The sound begins with the phrase: the alignment is late.
            timed[0]["start"] = start_s
        words = tuple(
            Word(
                text=word["word"],
                start_ms=round(min(max(word["start"], start_s), end_s) * 1000),
                end_ms=round(min(max(word["end"], start_s), end_s) * 1000),
                probability=float(word["probability"]),
            )
            for word in timed
        )
        phrases.append(
            Phrase(
                text=text,
                start_ms=round(start_s * 1000),
                end_ms=round(end_s * 1000),
                words=words,
                avg_logprob=float(raw.taken.logprob),
                compression_ratio=float(raw.taken.ratio),
                no_speech_prob=float(raw.taken.result.no_speech_prob),
                temperature=float(raw.taken.temperature),
            )
        )
    return phrases


def _move_onto_speech(segment: _Segment) -> None:
    """Move phrases in pauses onto the speech without text beside them; mark the others there as text without sound."""
    is_loud = loud_frames(segment.features, segment.speech)
    places = moved_to_speech(_covered(segment), segment.speech)
    for at, (phrase, place) in enumerate(zip(segment.phrases, places, strict=True)):
        if not is_near_speech(place, segment.speech):
            has_sound = is_loud[round(place.start_s * 100) : round(place.end_s * 100)].any()
            segment.phrases[at] = phrase if has_sound else replace(phrase, no_speech_prob=1.0)
            continue
        start_ms, end_ms = round(place.start_s * 1000), round(place.end_s * 1000)
        if start_ms == phrase.start_ms:
            continue
        shift_ms = start_ms - phrase.start_ms
        words = tuple(
            replace(
                word,
                start_ms=min(word.start_ms + shift_ms, end_ms),
                end_ms=min(word.end_ms + shift_ms, end_ms),
            )
            for word in phrase.words
        )
        segment.phrases[at] = replace(phrase, start_ms=start_ms, end_ms=end_ms, words=words)
    segment.phrases.sort(key=lambda phrase: phrase.start_ms)


def _is_known(phrase: Phrase, phrases: list[Phrase]) -> bool:
    """Return whether a phrase of a second decoding was decoded before, with the wrong times; correct them if so.

    Where it is only a part of the phrase before or after it, it is dropped without that.
    """
    text = _letters(phrase.text)
    for at, known in enumerate(phrases):
        distance_ms = max(known.start_ms - phrase.end_ms, phrase.start_ms - known.end_ms)
        if distance_ms > KNOWN_WITHIN_MS or text not in (other := _letters(known.text)):
            continue
        if text == other:
            phrases[at] = phrase
            return True
        if len(text) >= MIN_KNOWN_LETTERS or (other.endswith(text) and 0 <= distance_ms <= SLACK_S * 1000):
            return True
    return False


def _padded(features: NDArray[np.float32], size: int = WINDOW_FRAMES) -> NDArray[np.float32]:
    """Return features (bins, n) as a window: cut or padded to `size` frames."""
    from faster_whisper.audio import pad_or_trim

    window: NDArray[np.float32] = pad_or_trim(features, size)
    return window


def _letters(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())


def _covered(segment: _Segment) -> list[TimeRange]:
    return [TimeRange(phrase.start_ms / 1000, phrase.end_ms / 1000) for phrase in segment.phrases]


def _result(segment: _Segment) -> SegmentResult:
    unheard = uncovered_speech(segment.speech, _covered(segment), min_s=MIN_REPORTED_S)
    return SegmentResult(
        phrases=tuple(segment.phrases),
        language=segment.language or "",
        language_probability=segment.probability,
        no_speech_prob=segment.no_speech_prob,
        is_speech=bool(segment.phrases),
        temperature=segment.temperature,
        fallbacks=segment.fallbacks,
        decisions=tuple(segment.decisions),
        windows=segment.windows,
        unheard=tuple((round(run.start_s * 1000), round(run.end_s * 1000)) for run in unheard),
    )


def _decision(verdict: DecisionKind, cause: str, taken: DecodingAttempt) -> DecodingDecision:
    return DecodingDecision(verdict=verdict, cause=cause, temperature=float(taken.temperature))
