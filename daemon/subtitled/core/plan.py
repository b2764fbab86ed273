"""Speech spans packed into segments; segment time to media time."""

from __future__ import annotations

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


class Plan(Struct, frozen=True):
    """A segment of a file: the pieces that are joined end to end, and the speech in them."""

    index: Annotated[int, Meta(ge=0, le=2**31)]
    pieces: tuple[PlanPiece, ...]
    spans: tuple[Span, ...]

    @property
    def samples(self) -> int:
        """Length of the segment in samples."""
        return sum(piece.samples for piece in self.pieces)


class PlanSettings(Struct, frozen=True, kw_only=True):
    """The settings that decide a plan; a job is planned again with those of its first plan."""

    threshold: float = VadConfig().threshold
    min_silence_ms: int = VadConfig().min_silence_ms
    pad_ms: int = VadConfig().pad_ms
    min_speech_ms: int = SegmentsConfig().min_speech_ms
    max_segment_s: int = SegmentsConfig().max_segment_s
    window_samples: int = 0
    """What the model saw at once when the file was first planned; 0 while no model is loaded."""


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
    """Packs spans into segments of at most `max_samples`, in order, each span whole in one segment."""

    def __init__(self, max_samples: int) -> None:
        self._max = max_samples
        self._spans: list[Span] = []
        self._samples = 0
        self._index = 0
        self._end = 0

    def add(self, span: Span) -> Plan | None:
        """Add the next span; return the finished segment before it if the span does not fit into that one.

        A span that is empty, longer than `max_samples` or not after the one before raises ValueError and
        changes nothing.
        """
        samples = span.end - span.start
        if not 0 < samples <= self._max:
            raise ValueError(f"{span} holds {samples} samples; 1 to {self._max} are allowed: cut it first")
        if span.start < self._end:
            raise ValueError(f"{span} begins before sample {self._end}, where the last span ended")
        plan = self.finish() if self._samples + samples > self._max else None
        self._spans.append(span)
        self._samples += samples
        self._end = span.end
        return plan

    def finish(self) -> Plan | None:
        """Return the last segment; None if there is none, as in a file without speech."""
        if not self._spans:
            return None
        spans = tuple(self._spans)
        plan = Plan(self._index, _pieces(spans), spans)
        self._spans.clear()
        self._samples = 0
        self._index += 1
        return plan


def _pieces(spans: tuple[Span, ...]) -> tuple[PlanPiece, ...]:
    """Return the spans as runs of audio; spans that touch are one run."""
    pieces: list[PlanPiece] = []
    for span in spans:
        samples = span.end - span.start
        if pieces and pieces[-1].start + pieces[-1].samples == span.start:
            pieces[-1] = PlanPiece(pieces[-1].start, pieces[-1].samples + samples)
        else:
            pieces.append(PlanPiece(span.start, samples))
    return tuple(pieces)


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
