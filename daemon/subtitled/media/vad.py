"""Speech found in 16 kHz PCM by Silero VAD, streamed."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.plan import FRAME, Span

# onnxruntime 1.32 has telemetry: once imported, it keeps a device id and a database of events in HOME, for its maker's server.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from subtitled.config import schema

_FILE = Path(__file__).with_name("silero_vad") / "silero_vad_16k_dense.onnx"
"""Of silero-vad 6.2.3 (MIT), converted by tools/convert_vad_model.py. faster-whisper's copy is another model."""
CONTEXT = 64
"""Samples of the previous frame that the model gets with each frame."""
_STEPS, _HOP = 4, 128
"""The model takes so many spectra of a frame, each of two hops of samples."""

BATCH = 512
"""Frames in one call of the model, 16.4 s. Blocks of any size are fed on this grid, so results do not depend on them."""

_MIN_UNCOVERED = SAMPLE_RATE
"""Speech beside covered speech that is shorter is its echo, or the other VAD ended it later: 1 s."""
_LONG_SPEECH = 60 * SAMPLE_RATE
"""Speech without a pause is given in parts of about a minute, so that memory is bounded."""


class VadUpdate(Struct, frozen=True):
    """The results that became final since the last update.

    `levels`: mean square of each frame of 512 samples judged since. `spans`: speech with its padding, ended
    and final, in order. `skipped`: speech too short to keep, without padding. `talking`: the earliest span
    that is not final, its start final and its end a sample that it is certain to reach. No later span begins
    before `settled`.
    """

    levels: list[int]
    spans: tuple[Span, ...]
    skipped: tuple[Span, ...]
    talking: Span | None
    settled: int


class Vad:
    """Silero VAD over one stream of PCM.

    The spans are those of the silero-vad package's `get_speech_timestamps` on the whole stream, whatever
    blocks it is fed in; memory does not grow with the stream. With `skips_silence` the model does not run on batches of zeros.
    """

    def __init__(
        self, settings: schema.VadConfig, *, min_speech_ms: int, skips_silence: bool = False
    ) -> None:
        self._skips_silence = skips_silence
        self._model = _model()
        self._h = self._c = np.zeros((1, 1, 128), np.float32)
        # 64 samples of context, then one batch.
        self._pcm = np.zeros(CONTEXT + BATCH * FRAME, np.int16)
        self._filled = CONTEXT
        self._samples = 0
        self._speech = Speech(settings, min_speech_ms=min_speech_ms)

    def feed(self, pcm: NDArray[np.int16]) -> list[VadUpdate]:
        """Take the next samples (`pcm`: int16 (n,), 16 kHz mono); return an update for each batch they complete."""
        updates = []
        while len(pcm):
            taken = pcm[: len(self._pcm) - self._filled]
            self._pcm[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            self._samples += len(taken)
            pcm = pcm[len(taken) :]
            if self._filled == len(self._pcm):
                levels, probabilities = self._evaluate(BATCH)
                updates.append(self._speech.feed(levels, probabilities))
                self._pcm[:CONTEXT] = self._pcm[-CONTEXT:]
                self._filled = CONTEXT
        return updates

    def finish(self) -> VadUpdate:
        """Return the update of the last samples; nothing may be fed after it."""
        frames = -(-(self._filled - CONTEXT) // FRAME)
        # As in the package, silence fills the last frame.
        self._pcm[self._filled :] = 0
        levels, probabilities = self._evaluate(frames) if frames else ([], [])
        return self._speech.finish(levels, probabilities, self._samples)

    def _evaluate(self, frames: int) -> tuple[list[int], list[float]]:
        """Return the mean square and the probability of speech of each of the first `frames` frames held."""
        pcm = self._pcm[: CONTEXT + frames * FRAME]
        if self._skips_silence and not pcm.any():
            return [0] * frames, [0.0] * frames
        even, odd = _folded(pcm)
        inputs = {"even": even, "odd": odd, "h": self._h, "c": self._c}
        probabilities, self._h, self._c = self._model.run(("speech_probs", "hn", "cn"), inputs)
        # Sums of whole numbers under 2**53 are exact in any order, so levels and cuts are the same on every machine.
        exact = pcm[CONTEXT:].reshape(frames, FRAME).astype(np.float64)
        levels = np.einsum("ij,ij->i", exact, exact).astype(np.int64) // FRAME
        return levels.tolist(), probabilities.tolist()


class Speech:
    """Probabilities of frames into spans: `get_speech_timestamps_from_probs` of silero-vad 6.2, streamed.

    Two thresholds with hysteresis; a pause shorter than `min_silence_ms` does not end speech; speech of
    `min_speech_ms` or less is skipped; what is kept is padded on both sides, and spans whose paddings would
    meet share the pause between them.
    """

    def __init__(self, settings: schema.VadConfig, *, min_speech_ms: int) -> None:
        self._threshold = settings.threshold
        self._low = max(settings.threshold - 0.15, 0.01)
        self._min_silence = settings.min_silence_ms * SAMPLE_RATE // 1000
        self._min_speech = min_speech_ms * SAMPLE_RATE // 1000
        self._pad = settings.pad_ms * SAMPLE_RATE // 1000
        self._samples_seen = 0
        # Current speech: where it began, and where its current pause began.
        self._start: int | None = None
        self._pause: int | None = None
        # The last kept span while its end may still move: its padded start and its unpadded end.
        self._ended: Span | None = None
        # The unpadded end of the last kept span.
        self._last_end: int | None = None
        self._spans: list[Span] = []
        self._skipped: list[Span] = []

    def feed(self, levels: list[int], probabilities: list[float]) -> VadUpdate:
        """Take the probabilities and levels of the next frames; return what is certain now."""
        self._track(probabilities)
        self._settle()
        return self._report(levels)

    def finish(self, levels: list[int], probabilities: list[float], samples: int) -> VadUpdate:
        """Process the last frames; current speech ends with the audio, which has `samples` samples."""
        self._track(probabilities)
        if self._start is not None:
            self._close(self._start, samples)
        if self._ended is not None:
            self._spans.append(Span(self._ended.start, min(samples, self._ended.end + self._pad)))
            self._ended = None
        return self._report(levels)

    def _track(self, probabilities: list[float]) -> None:
        for frame, probability in enumerate(probabilities, self._samples_seen // FRAME):
            if probability >= self._threshold:
                self._pause = None
                if self._start is None:
                    self._start = frame * FRAME
                    continue
            if probability < self._low and self._start is not None:
                if self._pause is None:
                    self._pause = frame * FRAME
                if frame * FRAME - self._pause >= self._min_silence:
                    self._close(self._start, self._pause)
        self._samples_seen += FRAME * len(probabilities)

    def _close(self, start: int, end: int) -> None:
        """End the current speech, and keep or skip it."""
        self._start = self._pause = None
        if end - start <= self._min_speech:
            self._skipped.append(Span(start, end))
            return
        padded = self._padded_start(start)
        self._release(start)
        self._ended = Span(padded, end)
        self._last_end = end

    def _padded_start(self, start: int) -> int:
        """Return the padded start of speech that starts at `start`."""
        if self._last_end is not None and start - self._last_end < 2 * self._pad:
            return start - (start - self._last_end) // 2
        return max(0, start - self._pad)

    def _release(self, next_start: int) -> None:
        """Make the end of the last span final: the next speech starts at `next_start`, or later."""
        if self._ended is not None:
            padding = min(self._pad, (next_start - self._ended.end) // 2)
            self._spans.append(Span(self._ended.start, self._ended.end + padding))
            self._ended = None

    def _settle(self) -> None:
        """Make the end of the last span final as soon as no later speech can move it."""
        if self._ended is None:
            return
        start = self._samples_seen if self._start is None else self._start
        if start - self._ended.end >= 2 * self._pad or self._is_kept():
            self._release(start)

    def _is_kept(self) -> bool:
        """Whether the current speech is long enough already."""
        return self._start is not None and self._certain_end() - self._start > self._min_speech

    def _certain_end(self) -> int:
        return self._samples_seen if self._pause is None else self._pause

    def _report(self, levels: list[int]) -> VadUpdate:
        start = self._padded_start(self._samples_seen if self._start is None else self._start)
        talking = None
        if self._ended is not None:
            talking = self._ended
        elif self._is_kept():
            talking = Span(start, self._certain_end())
        report = VadUpdate(
            levels,
            tuple(self._spans),
            tuple(self._skipped),
            talking,
            start if talking is None else talking.start,
        )
        self._spans.clear()
        self._skipped.clear()
        return report


class FallbackSpeech:
    """Finds the speech of a fallback mix while the chosen mix has none; memory is bounded."""

    def __init__(self) -> None:
        self._covered: list[Span] = []
        self._waiting: list[Span] = []
        self._taken = 0
        """Speech of the fallback before this sample was taken."""

    def feed(self, chosen: VadUpdate, fallback: VadUpdate, *, is_last: bool = False) -> VadUpdate:
        """Return the update of the fallback without what the chosen mix covers, given updates of the same frames."""
        covered = [*self._covered, *chosen.spans]
        known = sys.maxsize if is_last else chosen.settled
        if chosen.talking is not None:
            covered.append(chosen.talking)
            known = chosen.talking.end
        spans = list(fallback.spans)
        talking = fallback.talking
        if talking is not None and talking.end - max(talking.start, self._taken) >= _LONG_SPEECH:
            spans.append(talking)
        for span in spans:
            if span.end > self._taken:  # otherwise all of it was taken while it was spoken
                self._waiting.append(Span(max(span.start, self._taken), span.end))
                self._taken = span.end
        ready = [span for span in self._waiting if span.end <= known]
        self._waiting = self._waiting[len(ready) :]
        next_start = fallback.settled if talking is None else talking.start
        settled = self._waiting[0].start if self._waiting else max(self._taken, next_start)
        self._covered = [span for span in covered if span.end > settled and span is not chosen.talking]
        uncovered = tuple(part for span in ready for part in _without(span, covered))
        return VadUpdate(fallback.levels, uncovered, (), None, settled)


def _without(span: Span, covered: Sequence[Span]) -> Iterator[Span]:
    """Yield the parts of a span that other spans, in order, do not cover; no short ones beside them."""
    parts, start = [], span.start
    for other in covered:
        if other.start < span.end and start < other.end:
            parts.append(Span(start, other.start))
            start = other.end
    parts.append(Span(start, span.end))
    for part in parts:
        if part == span or part.end - part.start >= _MIN_UNCOVERED:
            yield part


def _folded(pcm: NDArray[np.int16]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return sums and differences of the samples before and after the middle of each spectrum, float32 (frames, 4, 128).

    `pcm`: the context, then whole frames. The basis of the spectra is even or odd about the middle, and 0 at the first sample.
    """
    frames = np.lib.stride_tricks.sliding_window_view(pcm, CONTEXT + FRAME)[::FRAME]
    count, width = len(frames), CONTEXT + FRAME
    samples = np.empty((count, (_STEPS + 1) * _HOP), np.float32)
    np.multiply(frames, np.float32(1 / 32768), out=samples[:, :width])
    # The end of a frame is reflected, as the package does.
    samples[:, width:] = samples[:, width - 2 : 2 * width - 2 - samples.shape[1] : -1]
    windows = np.lib.stride_tricks.sliding_window_view(samples, 2 * _HOP, axis=1)[:, ::_HOP]
    before, after = windows[..., 1 : _HOP + 1], windows[..., : _HOP - 1 : -1]
    return before + after, before - after


@functools.cache
def _model() -> Any:
    options = onnxruntime.SessionOptions()
    # One core per prepare worker.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(_FILE, options, providers=["CPUExecutionProvider"])
