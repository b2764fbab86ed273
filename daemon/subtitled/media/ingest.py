"""A media file into planned segments with their PCM, streamed."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from msgspec import Struct

from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.plan import Cutter, Plan, Planner, SkippedSpan, Span
from subtitled.errors import MediaError
from subtitled.media.decode import open_media
from subtitled.media.vad import Vad
from subtitled.media.waveform import WaveformBuilder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from subtitled.config import schema
    from subtitled.media.vad import VadUpdate

MAX_SEGMENT_SAMPLES = 480_000
"""30 s, the longest window of any Whisper model."""


class IngestedSegment(Struct, frozen=True):
    """A segment ready for a model; `pcm`: int16 (plan.samples,), 16 kHz mono."""

    plan: Plan
    pcm: NDArray[np.int16]


class Ingest:
    """Decodes one file, finds its speech, and plans its segments; iterate it once, as a context manager.

    Each segment comes as soon as it is planned, while the file is still being decoded; memory does not grow
    with the file. `window_s` is the model's window; a segment is never longer, nor than
    `segments.max_segment_s`, nor than 30 s. `language` (two letters) chooses between audio tracks.
    `on_progress` is called with `decoded_samples` after each block of a few seconds, also while there is
    nothing to give; what it raises ends the iteration. Raises MediaError, here and while iterating.

    `info` describes the file; `decoded_samples` grows while iterating, as do `decode_s` and `vad_s`, the time that
    both took; `speech_samples` counts what the segments given so far hold; `skipped`, the speech that no
    segment holds, is complete at the end.
    """

    def __init__(
        self,
        path: str,
        *,
        vad: schema.VadConfig,
        segments: schema.SegmentsConfig,
        window_s: float,
        language: str | None = None,
        root: str | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        max_samples = min(MAX_SEGMENT_SAMPLES, int(min(window_s, segments.max_segment_s) * SAMPLE_RATE))
        self._vad = Vad(vad, min_speech_ms=segments.min_speech_ms)
        self._cutter = Cutter(max_samples)
        self._planner = Planner(max_samples)
        self._too_short = f"shorter than {segments.min_speech_ms} ms"
        self._on_progress = on_progress
        self._skipped: list[SkippedSpan] = []
        self._recent = _Recent()
        self._peaks = WaveformBuilder()
        # The PCM of the spans in the segment that is being filled.
        self._pcm: list[NDArray[np.int16]] = []
        self.decoded_samples = 0
        self.speech_samples = 0
        self.decode_s = self.vad_s = 0.0
        self._decoder = open_media(path, language=language, root=root)
        self.info = self._decoder.info

    @property
    def skipped(self) -> tuple[SkippedSpan, ...]:
        """Speech that no segment holds, with the cause, in order."""
        return tuple(self._skipped)

    @property
    def bad_packets(self) -> int:
        """Packets of the file skipped so far because they were damaged."""
        return self._decoder.bad_packets

    @property
    def drift_ms(self) -> int:
        """How far a timestamp of the file was, so far, from where its audio came to be; see `Decoder.drift_ms`."""
        return self._decoder.drift_ms

    def peaks(self) -> tuple[int, bytes]:
        """Return how loud all of the audio was, once it has been read; see `WaveformBuilder.finish`."""
        return self._peaks.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; may be repeated."""
        self._decoder.close()

    def __iter__(self) -> Iterator[IngestedSegment]:
        blocks = iter(self._decoder)
        while (block := self._next(blocks)) is not None:
            self.decoded_samples += len(block)
            self._recent.append(block)
            self._peaks.feed(block)
            if self._on_progress is not None:
                self._on_progress(self.decoded_samples)
            started = time.perf_counter()
            reports = self._vad.feed(block)
            self.vad_s += time.perf_counter() - started
            for heard in reports:
                yield from self._plan(heard)
        yield from self._plan(self._vad.finish())
        plan = self._planner.finish()
        if plan is not None:
            yield self._prepared(plan)

    def _next(self, blocks: Iterator[NDArray[np.int16]]) -> NDArray[np.int16] | None:
        started = time.perf_counter()
        block = next(blocks, None)
        self.decode_s += time.perf_counter() - started
        return block

    def _plan(self, heard: VadUpdate) -> Iterator[IngestedSegment]:
        self._skipped.extend(SkippedSpan(span, self._too_short) for span in heard.skipped)
        for span in self._cutter.feed(
            heard.levels, heard.spans, talking=heard.talking, settled=heard.settled
        ):
            plan = self._planner.add(span)
            if plan is not None:
                yield self._prepared(plan)
            self._pcm.append(self._recent.copy(span))
        self._recent.forget(self._cutter.horizon)

    def _prepared(self, plan: Plan) -> IngestedSegment:
        prepared = IngestedSegment(plan, np.concatenate(self._pcm))
        self._pcm.clear()
        self.speech_samples += plan.samples
        return prepared


def recut(
    path: str, plans: Iterable[Plan], *, language: str | None = None, root: str | None = None
) -> Iterator[IngestedSegment]:
    """Decode a file again and yield the PCM of its stored `plans`, which are in order, without VAD.

    The PCM is that of the first time to the last bit, where the file and `language` are. Stops reading after
    the last plan; memory does not grow with the file. Raises MediaError where the file cannot be decoded, or
    is shorter than its plans.
    """
    recent = _Recent()
    with open_media(path, language=language, root=root) as decoder:
        blocks = iter(decoder)
        for plan in plans:
            pcm = []
            for piece in plan.pieces:
                span = Span(piece.start, piece.start + piece.samples)
                recent.forget(span.start)
                while recent.end < span.end:
                    block = next(blocks, None)
                    if block is None:
                        raise MediaError(
                            f"{Path(path).name!r} now ends after {recent.end} samples at 16 kHz, but was planned with "
                            f"speech up to sample {span.end}: it changed; submit it again as a new job"
                        )
                    recent.append(block)
                    recent.forget(span.start)
                pcm.append(recent.copy(span))
            yield IngestedSegment(plan, np.concatenate(pcm))


class _Recent:
    """The last stretch of decoded PCM, addressed by decoded sample, held in the blocks it came in."""

    def __init__(self) -> None:
        self._blocks: deque[NDArray[np.int16]] = deque()
        self._start = 0
        self.end = 0

    def append(self, block: NDArray[np.int16]) -> None:
        self._blocks.append(block)
        self.end += len(block)

    def forget(self, before: int) -> None:
        """Let go of the blocks that end at `before` or earlier."""
        while self._blocks and self._start + len(self._blocks[0]) <= before:
            self._start += len(self._blocks.popleft())

    def copy(self, span: Span) -> NDArray[np.int16]:
        """Return the samples of `span`, which are held."""
        parts = []
        start = self._start
        for block in self._blocks:
            if start >= span.end:
                break
            parts.append(block[max(0, span.start - start) : span.end - start])
            start += len(block)
        return np.concatenate(parts)
