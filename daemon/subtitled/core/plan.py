"""Speech spans packed into segments; segment time to media time."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

from subtitled.config.schema import SegmentsConfig, VadConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SAMPLES_PER_MS = 16
"""All audio has 16,000 samples a second."""


Sample = Annotated[int, Meta(ge=0, le=2**48)]


class Span(Struct, frozen=True):
    """A stretch of speech: samples [start, end) at 16 kHz, counted from the first decoded sample."""

    start: Sample
    end: Sample


class PlanPiece(Struct, frozen=True):
    """A run of audio inside a segment: `samples` samples from decoded sample `start`."""

    start: Sample
    samples: Annotated[int, Meta(ge=1, le=480_000)]


class SegmentSound(Struct, frozen=True):
    """What a segment holds, in samples of the segment."""

    speech: tuple[Span, ...] = ()
    """The speech in it, without padding."""
    seams: tuple[int, ...] = ()
    """Where audio that was not next to each other meets."""


class AudioSource(Struct, frozen=True):
    """The audio of a file that is transcribed."""

    track: Annotated[int, Meta(ge=0, le=2**31)] = 0
    """Number among the audio tracks, from 1; 0: the preferred one."""
    mix: Annotated[str, Meta(max_length=200)] = ""
    """How its channels become one, a `media.mixing.Mix`; "": the default for their number."""


class Plan(Struct, frozen=True):
    """A segment of a file: the pieces that are joined end to end, and the speech in them."""

    index: Annotated[int, Meta(ge=0, le=2**31)]
    pieces: tuple[PlanPiece, ...]
    spans: tuple[Span, ...]
    source: AudioSource = AudioSource()
    """Track and mix that were decoded, so that the same PCM is cut again later."""

    @property
    def samples(self) -> int:
        """Length of the segment in samples."""
        return sum(piece.samples for piece in self.pieces)

    def sound(self) -> SegmentSound:
        """Return where the segment has speech, and where audio was left out."""
        speech, seams, before = [], [], 0
        for piece in self.pieces:
            end = piece.start + piece.samples
            speech += [
                Span(
                    before + max(span.start, piece.start) - piece.start,
                    before + min(span.end, end) - piece.start,
                )
                for span in self.spans
                if span.start < end and piece.start < span.end
            ]
            before += piece.samples
            seams.append(before)
        return SegmentSound(tuple(speech), tuple(seams[:-1]))


class PlanSettings(Struct, frozen=True, kw_only=True):
    """The settings that decide a plan; a job is planned again with those of its first plan."""

    threshold: float = VadConfig().threshold
    min_silence_ms: int = VadConfig().min_silence_ms
    pad_ms: int = VadConfig().pad_ms
    min_speech_ms: int = SegmentsConfig().min_speech_ms
    max_segment_s: int = SegmentsConfig().max_segment_s
    max_pause_ms: int = SegmentsConfig().max_pause_ms
    window_samples: int = 0
    """Window of the model when the file was first planned; 0 while no model is loaded."""


class SkippedSpan(Struct, frozen=True):
    """Speech that no segment holds, and why."""

    span: Span
    cause: str


FRAME = 512
"""Samples of one level and of one VAD probability."""


class Cutter:
    """Cuts spans that are longer than `max_samples` at their quietest frame.

    The result depends on the audio only, not on how it was fed. Speech without pauses is cut while it is fed, so memory
    is bounded: levels are kept for at most 1.25 `max_samples`.
    """

    def __init__(self, max_samples: int) -> None:
        if max_samples < 8 * FRAME:
            raise ValueError(f"max_samples is {max_samples}; the minimum is {8 * FRAME}, eight frames")
        self._max = max_samples
        # Minimum length after a cut: no segment begins with the last syllable of a sentence.
        self._rest = max_samples // 4
        self._levels: list[int] = []
        self._first_frame = 0
        self._given = 0

    def feed(
        self, levels: Sequence[int], spans: Iterable[Span], *, talking: Span | None = None, settled: int = 0
    ) -> list[Span]:
        """Return the spans that are final, each at most `max_samples` long, in order.

        `levels` are the mean squares of the next frames. `spans` are those that ended. `talking` is the span
        that has not ended: its true start, and an end that it is certain to reach, within the frames fed.
        No span of a later call begins before sample `settled`.
        """
        self._levels.extend(levels)
        final: list[Span] = []
        for span in spans:
            start = self._cut(span.start, span.end, final, is_open=False)
            final.append(Span(start, span.end))
            self._given = span.end
        if talking is not None:
            self._given = self._cut(talking.start, talking.end, final, is_open=True)
        self._given = max(self._given, settled)
        stale = self._given // FRAME - self._first_frame
        if stale > 0:
            del self._levels[:stale]
            self._first_frame += stale
        return final

    @property
    def horizon(self) -> int:
        """No later span begins before this sample."""
        return self._given

    def _cut(self, start: int, end: int, final: list[Span], *, is_open: bool) -> int:
        """Append all parts but the last to `final`, and return where the last one begins."""
        start = max(start, self._given)
        # An open span is cut only when its end cannot change where: then any feeding cuts at the same place.
        longest = self._max + self._rest - 1 if is_open else self._max
        while end - start > longest:
            cut = self._quietest(start + self._max // 2, min(start + self._max, end - self._rest))
            final.append(Span(start, cut))
            start = cut
        return start

    def _quietest(self, low: int, high: int) -> int:
        """Return the middle of the quietest frame whose middle lies in [low, high]; of equals the latest."""
        half = FRAME // 2
        first = -((half - low) // FRAME)
        last = (high - half) // FRAME
        frames = range(last, first - 1, -1)
        return min(frames, key=lambda frame: self._levels[frame - self._first_frame]) * FRAME + half


class Planner:
    """Packs spans of speech, in order, into segments of at most `max_samples`, with the audio around them.

    A pause of up to `max_pause` samples stays in the segment. Of a longer one, and of what surrounds a segment, `pad`
    samples stay on each side of the speech. A full segment ends at the longest pause of its last quarter: Whisper puts
    false full stops and capitals where a sentence is cut.
    """

    def __init__(self, max_samples: int, *, pad: int = 0, max_pause: int = 0) -> None:
        self._max = max_samples
        self._pad = min(pad, max_samples // 8)
        self._max_pause = max(max_pause, 2 * self._pad)
        self.longest_span = max_samples - 2 * self._pad
        """Samples of the longest span that `add` accepts."""
        self._spans: list[Span] = []
        self._index = 0
        self._end = 0
        # End of the last span of the segment before: what is between belongs to the segments in halves.
        self._last_end: int | None = None

    def add(self, span: Span) -> list[Plan]:
        """Add the next span; return the segments that are complete now.

        A span that is empty, longer than `longest_span` or not after the one before raises ValueError and changes
        nothing.
        """
        samples = span.end - span.start
        if not 0 < samples <= self.longest_span:
            raise ValueError(
                f"{span} holds {samples} samples; allowed are 1 to {self.longest_span}: cut it first"
            )
        if span.start < self._end:
            raise ValueError(f"{span} begins before sample {self._end}, where the last span ended")
        plans: list[Plan] = []
        while self._spans and self._size([*self._spans, span]) > self._max:
            plans.append(self._close([*self._spans, span]))
        self._spans.append(span)
        self._end = span.end
        return plans

    def finish(self, end: int | None = None) -> Plan | None:
        """Return the last segment of audio that ends at sample `end`; None where there is none."""
        if not self._spans:
            return None
        last = self._spans[-1].end
        return self._plan(self._spans, last if end is None else min(last + self._pad, end))

    def needed(self, horizon: int) -> list[Span]:
        """Return what of the audio may still belong to a segment; no later span begins before sample `horizon`."""
        latest = Span(max(0, horizon - self._pad), sys.maxsize)
        if not self._spans:
            return [latest]
        last = self._spans[-1].end
        held = [
            Span(piece.start, piece.start + piece.samples)
            for piece in self._pieces(self._spans, last + self._pad)
        ]
        if horizon - last > self._max_pause:
            return [*held, latest]
        return [*held[:-1], Span(held[-1].start, sys.maxsize)]

    def _close(self, spans: list[Span]) -> Plan:
        """Return the segment that ends at the best pause between `spans`, of which the last one does not fit in."""
        counts = range(1, len(spans))
        late = [count for count in counts if 4 * self._size(spans[:count]) >= 3 * self._max] or [counts[-1]]
        count = max(late, key=lambda count: (spans[count].start - spans[count - 1].end, count))
        end, following = spans[count - 1].end, spans[count].start
        plan = self._plan(spans[:count], end + min(self._pad, (following - end) // 2))
        self._spans = spans[count:-1]
        return plan

    def _plan(self, spans: list[Span], end: int) -> Plan:
        plan = Plan(self._index, tuple(self._pieces(spans, end)), tuple(spans))
        self._index += 1
        self._last_end = spans[-1].end
        self._spans = []
        return plan

    def _size(self, spans: list[Span]) -> int:
        """Return the samples of a segment of `spans`, all padding included."""
        return sum(piece.samples for piece in self._pieces(spans, spans[-1].end + self._pad))

    def _pieces(self, spans: list[Span], end: int) -> list[PlanPiece]:
        """Return the audio of a segment of `spans` that ends at sample `end`."""
        first = spans[0].start
        room = first if self._last_end is None else (first - self._last_end + 1) // 2
        start = first - min(self._pad, room)
        pieces = []
        for before, after in pairwise(spans):
            if after.start - before.end > self._max_pause:
                pieces.append(PlanPiece(start, before.end + self._pad - start))
                start = after.start - self._pad
        pieces.append(PlanPiece(start, end - start))
        return pieces


def to_media(plan: Plan, sample: int, *, is_end: bool = False) -> int:
    """Return the decoded sample for `sample` of the segment.

    Where two pieces meet, a start belongs to the later one, an end (`is_end`) to the piece that ends there.
    A sample outside the segment, which a model may return, maps to the segment's first or last.
    """
    before = 0
    for piece in plan.pieces:
        inside = sample - before
        if inside < piece.samples or (is_end and inside == piece.samples):
            return piece.start + max(inside, 0)
        before += piece.samples
    last = plan.pieces[-1]
    return last.start + last.samples
