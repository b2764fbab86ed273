"""A media file into planned segments with their PCM, streamed."""

from __future__ import annotations

import sys
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from subtitle.messages import AudioChoice
from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.plan import FRAME, AudioSource, Cutter, Plan, Planner, SkippedSpan, Span
from subtitled.errors import MediaError
from subtitled.media.decode import open_media
from subtitled.media.demux import UnreadableTrackError
from subtitled.media.mixing import (
    ENOUGH_FRAMES,
    SPLIT,
    SPLIT_MIXES,
    Evidence,
    Mix,
    choose_mix,
    choose_track,
    fallback_of,
    is_cancelled,
    measured_mixes,
    split_tracks,
)
from subtitled.media.vad import FallbackSpeech, Vad
from subtitled.media.waveform import WaveformBuilder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from subtitle.messages import AudioTrack
    from subtitled.config import schema
    from subtitled.media.decode import Decoder
    from subtitled.media.media_file import MediaInfo
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
    `segments.max_segment_s`, nor than 30 s. `audio_track` and `language` choose between audio tracks, as in `open_media`.
    The track and its mix are chosen first, from the first speech in the file: they are in `source`, and in the plans. Speech
    that is later in other channels only is planned from their mix. With
    `channels` = "split" tracks with different speech are planned one after the other, each on its own clock (`offsets`), and
    two channels with different speech separately: `source.mix` is "split", those in the plans are "left" and "right".
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
        audio_track: str = "auto",
        channels: str = "mix",
        language: str | None = None,
        root: str | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        max_samples = min(MAX_SEGMENT_SAMPLES, int(min(window_s, segments.max_segment_s) * SAMPLE_RATE))
        # The planner adds the padding, which depends on where segments begin and end.
        self._new_vad = partial(Vad, replace(vad, pad_ms=0), min_speech_ms=segments.min_speech_ms)
        per_ms = SAMPLE_RATE // 1000
        self._new_planner = partial(
            Planner, max_samples, pad=vad.pad_ms * per_ms, max_pause=segments.max_pause_ms * per_ms
        )
        self._too_short = f"shorter than {segments.min_speech_ms} ms"
        self._is_split = channels == "split"
        self._on_progress = on_progress
        self._skipped: list[SkippedSpan] = []
        self._streams: list[_Stream] = []
        self._decoders: list[Decoder] = []
        """Those of the tracks that were planned, and of the one that is; the first one describes the file."""
        self._is_measured = False
        self._segments = 0
        self._peaks = WaveformBuilder()
        self._fallback = ""
        """The mix of the segments in which the chosen one has no speech; "": there is none yet."""
        self.decoded_samples = 0
        self.speech_samples = 0
        self.decode_s = self.vad_s = 0.0
        self._open = partial(open_media, path, root=root)
        self._decoder = self._open(audio_track=audio_track, language=language)

    @property
    def info(self) -> MediaInfo:
        """The track's description."""
        return self._main.info

    @property
    def source(self) -> AudioSource:
        """The track and mix that are planned, the first if there are several tracks; final with the first segment."""
        return self._main.source

    @property
    def _main(self) -> Decoder:
        return self._decoders[0] if self._decoders else self._decoder

    @property
    def tracks(self) -> tuple[AudioTrack, ...]:
        """All audio tracks of the file."""
        return self._main.tracks

    @property
    def audio(self) -> AudioChoice:
        """What is transcribed; complete at the end."""
        numbers = tuple(self.offsets)
        is_one = len(numbers) < 2
        return AudioChoice(
            track=self.source.track,
            mix=self.source.mix if is_one else SPLIT,
            fallback=self._fallback,
            tracks=self.tracks,
            split_tracks=() if is_one else numbers,
        )

    @property
    def offsets(self) -> dict[int, int]:
        """The start of each track that was planned, in samples of media time, by its number; complete at the end."""
        return {decoder.source.track: decoder.info.offset_samples for decoder in self._decoders}

    @property
    def skipped(self) -> tuple[SkippedSpan, ...]:
        """Speech that no segment holds, with the cause, in order."""
        return tuple(self._skipped)

    @property
    def bad_packets(self) -> int:
        """Packets of the file skipped so far because they were damaged."""
        return sum(decoder.bad_packets for decoder in self._decoders or [self._decoder])

    @property
    def damaged(self) -> tuple[tuple[int, int], ...]:
        """Where audio of the file is lost, in ms of media time; complete at the end."""
        spans = set()
        for decoder in self._decoders or [self._decoder]:
            offset_ms = decoder.info.offset_samples * 1000 // SAMPLE_RATE
            spans |= {(max(0, offset_ms + start), max(0, offset_ms + end)) for start, end in decoder.damaged}
        return tuple(sorted(spans))

    @property
    def drift_ms(self) -> int:
        """How far a timestamp of the file was, so far, from where its audio came to be; see `Decoder.drift_ms`."""
        return self._main.drift_ms

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
        for source in self._choose():
            if self._decoders or self._is_measured:
                self._decoder.close()
                self._decoder = self._open(source=source)
            self._decoders.append(self._decoder)
            yield from self._plan_track()

    def _plan_track(self) -> Iterator[IngestedSegment]:
        streams = self._streams = self._new_streams()
        blocks = self._decoder.each([stream.mix for stream in streams])
        later = self._decoder.info.offset_samples - self.info.offset_samples
        samples = 0
        while (block := self._next(blocks)) is not None:
            samples += block.shape[1]
            self.decoded_samples = max(self.decoded_samples, later + samples)
            if self._decoder is self._main:
                self._peaks.feed(block[0] if len(block) == 1 else max(block, key=_power))
            self._report(samples)
            for stream, pcm in zip(streams, block, strict=True):
                started = time.perf_counter()
                updates = stream.feed(pcm, block[0])
                self.vad_s += time.perf_counter() - started
                for update in updates:
                    yield from self._plan(stream, update)
        for stream in streams:
            yield from self._plan(stream, stream.finish())
            plan = stream.planner.finish(samples)
            if plan is not None:
                yield self._prepared(stream, plan)

    def _new_streams(self) -> list[_Stream]:
        """Return a stream for each mix that is planned: two of split channels, else the chosen mix and its fallback."""
        source = self._decoder.source
        if source.mix == SPLIT:
            return [_Stream(mix, self._new_vad(), self._new_planner()) for mix in SPLIT_MIXES]
        chosen = _Stream(source.mix, self._new_vad(), self._new_planner())
        fallback = fallback_of(chosen.mix, self._decoder.info.channel_names)
        if fallback is None:
            return [chosen]
        vad = self._new_vad(skips_silence=True)
        return [chosen, _Fallback(fallback, vad, self._new_planner(), chosen)]

    def _choose(self) -> list[AudioSource]:
        """Return the track and mix with the clearest speech; several tracks if they are split."""
        numbers = self._decoder.order
        if len(numbers) == 1 and self._decoder.info.channels == 1:
            return [self._decoder.source]
        preferred = self._decoder.source
        found: list[tuple[int, Evidence]] = []
        for number in numbers:
            if number != preferred.track:
                self._decoder.close()
                try:
                    self._decoder = self._open(source=AudioSource(number))
                except UnreadableTrackError:
                    continue
            found.append((number, self._measure()))
            if found[-1][1].is_enough and not self._is_split:
                break
        at = choose_track([evidence.frames for _, evidence in found])
        if at is None:
            return [preferred]
        chosen = split_tracks(self._decoder.tracks, found) if self._is_split else [found[at]]
        return [
            AudioSource(number, choose_mix(evidence, is_split=self._is_split)) for number, evidence in chosen
        ]

    def _measure(self) -> Evidence:
        """Read the track until its speech decides the mix, or to its end."""
        self._is_measured = True
        mixes = measured_mixes(self._decoder.info.channel_names)
        meter = _SpeechMeter(mixes, [self._new_vad() for _ in mixes])
        blocks = self._decoder.each(mixes)
        samples = 0
        while (block := self._next(blocks)) is not None:
            samples += block.shape[1]
            self._report(samples)
            started = time.perf_counter()
            meter.feed(block)
            self.vad_s += time.perf_counter() - started
            if meter.is_enough:
                break
        return meter.finish()

    def _report(self, samples: int) -> None:
        if self._on_progress is not None:
            self._on_progress(samples)

    def _next(self, blocks: Iterator[NDArray[np.int16]]) -> NDArray[np.int16] | None:
        started = time.perf_counter()
        block = next(blocks, None)
        self.decode_s += time.perf_counter() - started
        return block

    def _plan(self, stream: _Stream, update: VadUpdate) -> Iterator[IngestedSegment]:
        later = self._decoder.info.offset_samples - self.info.offset_samples
        for span in update.skipped:
            moved = Span(max(0, later + span.start), max(0, later + span.end))
            self._skipped.append(SkippedSpan(moved, self._too_short))
        for span in stream.cutter.feed(
            update.levels, update.spans, talking=update.talking, settled=update.settled
        ):
            for plan in stream.planner.add(span):
                yield self._prepared(stream, plan)
        stream.recent.keep(stream.planner.needed(stream.cutter.horizon))

    def _prepared(self, stream: _Stream, plan: Plan) -> IngestedSegment:
        pcm = [stream.recent.copy(Span(piece.start, piece.start + piece.samples)) for piece in plan.pieces]
        self.speech_samples += plan.samples
        index = self._segments
        self._segments += 1
        if isinstance(stream, _Fallback):
            self._fallback = stream.mix
        source = AudioSource(self._decoder.source.track, stream.mix)
        return IngestedSegment(replace(plan, index=index, source=source), np.concatenate(pcm))


class _Stream:
    """One mix of the track while its speech is planned."""

    def __init__(self, mix: str, vad: Vad, planner: Planner) -> None:
        self.mix = mix
        self.vad = vad
        self.planner = planner
        self.cutter = Cutter(planner.longest_span)
        self.recent = _Recent()
        self.updates: list[VadUpdate] = []
        """Those that the last call returned."""

    def feed(self, pcm: NDArray[np.int16], _: NDArray[np.int16]) -> list[VadUpdate]:
        """Take the next samples; return what is known of their speech."""
        self.recent.append(pcm)
        self.updates = self.vad.feed(pcm)
        return self.updates

    def finish(self) -> VadUpdate:
        """Return the last update."""
        self.updates = [self.vad.finish()]
        return self.updates[0]


class _Fallback(_Stream):
    """The mix that is planned where the chosen one has no speech; fed after it."""

    def __init__(self, mix: str, vad: Vad, planner: Planner, chosen: _Stream) -> None:
        super().__init__(mix, vad, planner)
        self._chosen = chosen
        self._speech = FallbackSpeech()

    def feed(self, pcm: NDArray[np.int16], chosen: NDArray[np.int16]) -> list[VadUpdate]:
        """Take the next samples, and those of the chosen mix; return what is known of the speech in the first only."""
        self.recent.append(pcm)
        if self.mix == "difference" and pcm.any() and not is_cancelled(chosen, pcm):
            # Most files have nothing that cancels, and the VAD takes most of the time.
            pcm = np.zeros_like(pcm)
        updates = zip(self._chosen.updates, self.vad.feed(pcm), strict=True)
        return [self._speech.feed(covered, update) for covered, update in updates]

    def finish(self) -> VadUpdate:
        return self._speech.feed(self._chosen.updates[0], self.vad.finish(), is_last=True)


def _power(pcm: NDArray[np.int16]) -> float:
    samples = pcm.astype(np.float32)
    return float(samples.dot(samples))


def recut(
    path: str,
    plans: Sequence[Plan],
    *,
    language: str | None = None,
    root: str | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[IngestedSegment]:
    """Decode a file again and yield the PCM of its stored `plans`, which are in order, without VAD; one mix after the other.

    The PCM is that of the first time to the last bit, if the file is the same; `language` is for plans without a source. Stops reading after
    the last plan; memory does not grow with the file. Raises MediaError where the file cannot be decoded, or
    is shorter than its plans.
    """
    for source in dict.fromkeys(plan.source for plan in plans):
        same = [plan for plan in plans if plan.source == source]
        with open_media(path, source=source, language=language, root=root) as decoder:
            yield from _recut(Path(path).name, decoder, same, on_progress)


def _recut(
    name: str, decoder: Decoder, plans: Sequence[Plan], on_progress: Callable[[int], None] | None
) -> Iterator[IngestedSegment]:
    recent = _Recent()
    blocks = iter(decoder)
    for plan in plans:
        pcm = []
        for piece in plan.pieces:
            span = Span(piece.start, piece.start + piece.samples)
            recent.keep([Span(span.start, sys.maxsize)])
            while recent.end < span.end:
                block = next(blocks, None)
                if block is None:
                    raise MediaError(
                        f"{name!r} now ends after {recent.end} samples at 16 kHz, but was planned with "
                        f"speech up to sample {span.end}: it changed; submit it again as a new job"
                    )
                recent.append(block)
                recent.keep([Span(span.start, sys.maxsize)])
                if on_progress is not None:
                    on_progress(recent.end)
            pcm.append(recent.copy(span))
        yield IngestedSegment(plan, np.concatenate(pcm))


class _SpeechMeter:
    """Measures the mixes of one track, each with a VAD of its own; memory: 2 MB for each hour."""

    def __init__(self, mixes: tuple[Mix, ...], vads: Sequence[Vad]) -> None:
        self._mixes = mixes
        self._vads = vads
        self._spans: list[list[Span]] = [[] for _ in mixes]
        self._speech_frames = [0 for _ in mixes]
        self._power: list[NDArray[np.float32]] = []
        self._rest = np.empty((len(mixes), 0), np.int16)

    @property
    def is_enough(self) -> bool:
        """Whether one of the mixes has enough speech."""
        return max(self._speech_frames) >= ENOUGH_FRAMES

    def feed(self, pcm: NDArray[np.int16]) -> None:
        """Take the next samples, (mixes, n) at 16 kHz."""
        for at, vad in enumerate(self._vads):
            self._add(at, vad.feed(pcm[at]))
        pcm = np.concatenate([self._rest, pcm], axis=1)
        whole = pcm.shape[1] // FRAME * FRAME
        self._rest = pcm[:, whole:]
        self._measure(pcm[:, :whole])

    def finish(self) -> Evidence:
        """Return what was found; nothing may be fed after it."""
        self._measure(np.pad(self._rest, ((0, 0), (0, -self._rest.shape[1] % FRAME))))
        for at, vad in enumerate(self._vads):
            self._add(at, [vad.finish()])
        power = np.concatenate(self._power, axis=2)
        speech = np.zeros((len(self._mixes), power.shape[2]), np.bool_)
        for at, spans in enumerate(self._spans):
            for span in spans:
                speech[at, span.start // FRAME : -(-span.end // FRAME)] = True
        return Evidence(mixes=self._mixes, speech=speech, power=power)

    def _add(self, at: int, updates: Sequence[VadUpdate]) -> None:
        for update in updates:
            self._spans[at] += update.spans
            self._speech_frames[at] += sum((span.end - span.start) // FRAME for span in update.spans)

    def _measure(self, pcm: NDArray[np.int16]) -> None:
        framed = pcm.reshape(len(self._mixes), -1, FRAME).astype(np.float32)
        self._power.append(np.einsum("aft,bft->abf", framed, framed))


class _Recent:
    """Decoded PCM that is still needed, addressed by decoded sample."""

    def __init__(self) -> None:
        self._blocks: deque[tuple[int, NDArray[np.int16]]] = deque()
        """The first sample of each block, and its PCM; in order."""
        self.end = 0

    def append(self, block: NDArray[np.int16]) -> None:
        self._blocks.append((self.end, block))
        self.end += len(block)

    def keep(self, needed: Sequence[Span]) -> None:
        """Forget everything outside the spans `needed`, which are in order."""
        kept: deque[tuple[int, NDArray[np.int16]]] = deque()
        for start, block in self._blocks:
            for span in needed:
                first, last = max(span.start, start), min(span.end, start + len(block))
                if first < last:
                    part = block[first - start : last - start]
                    # A slice would keep the whole block in memory.
                    kept.append((first, part if len(part) == len(block) else part.copy()))
        self._blocks = kept

    def copy(self, span: Span) -> NDArray[np.int16]:
        """Return the samples of `span`, which are held."""
        return np.concatenate(
            [
                block[max(0, span.start - start) : span.end - start]
                for start, block in self._blocks
                if start < span.end and span.start < start + len(block)
            ]
        )
