"""Speech is cut and packed without loss."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitled.core.plan import FRAME, Cutter, Plan, Planner, PlanPiece, Span, to_media

if TYPE_CHECKING:
    from collections.abc import Iterable


class Talk(NamedTuple):
    """A made-up recording: its spans, the level of each of its frames, and where it ends."""

    spans: list[Span]
    levels: list[int]
    end: int


@st.composite
def talks(draw: st.DrawFn) -> Talk:
    """Make recordings with short speech, speech far over any limit, and spans that touch."""
    spans = []
    at = 0
    for _ in range(draw(st.integers(0, 12))):
        at += draw(st.sampled_from([0, 1, 700, 5_000, 90_000]))
        samples = draw(st.one_of(st.integers(1, 20_000), st.integers(1, 200_000)))
        spans.append(Span(at, at + samples))
        at += samples
    at += draw(st.integers(0, 3_000))
    levels = draw(st.lists(st.integers(0, 9), min_size=1, max_size=40))
    frames = -(-at // FRAME)
    return Talk(spans, [levels[frame * frame % len(levels)] for frame in range(frames)], at)


def cut(talk: Talk, max_samples: int, steps: Iterable[int]) -> list[Span]:
    """Feed a talk as a VAD would that reports after each of `steps` frames, and then at the end."""
    cutter = Cutter(max_samples)
    final: list[Span] = []
    heard = told = 0
    for step in steps:
        before, heard = heard, min(heard + step, len(talk.levels))
        sample = heard * FRAME
        if sample >= talk.end:
            heard = before
            break
        ended = [span for span in talk.spans[told:] if span.end <= sample]
        told += len(ended)
        going = talk.spans[told] if told < len(talk.spans) and talk.spans[told].start < sample else None
        talking = None if going is None else Span(going.start, sample)
        settled = sample if talking is None else talking.start
        final += cutter.feed(talk.levels[before:heard], ended, talking=talking, settled=settled)
        assert len(cutter._levels) * FRAME <= max_samples * 1.25 + step * FRAME + 2 * FRAME
        assert all(span.end <= cutter.horizon for span in final)
    final += cutter.feed(talk.levels[heard:], talk.spans[told:], settled=talk.end)
    return final


def pack(spans: Iterable[Span], max_samples: int) -> list[Plan]:
    planner = Planner(max_samples)
    plans = [plan for plan in map(planner.add, spans) if plan is not None]
    last = planner.finish()
    return plans if last is None else [*plans, last]


LIMITS = st.integers(8 * FRAME, 60_000)
STEPS = st.lists(st.integers(1, 200), max_size=30)


@given(talks(), LIMITS, STEPS)
def test_a_plan_does_not_depend_on_how_it_was_fed(talk: Talk, limit: int, steps: list[int]) -> None:
    assert cut(talk, limit, steps) == cut(talk, limit, []) == cut(talk, limit, [1] * len(talk.levels))


@given(talks(), LIMITS, STEPS)
def test_no_speech_sample_is_lost_or_given_twice(talk: Talk, limit: int, steps: list[int]) -> None:
    plans = pack(cut(talk, limit, steps), limit)
    given_spans = [span for plan in plans for span in plan.spans]
    assert all(before.end <= after.start for before, after in pairwise(given_spans))
    for plan in plans:
        in_pieces = [(piece.start, piece.start + piece.samples) for piece in plan.pieces]
        assert runs(plan.spans) == in_pieces
    assert runs(given_spans) == runs(talk.spans)


def runs(spans: Iterable[Span]) -> list[tuple[int, int]]:
    """Join what touches."""
    joined: list[tuple[int, int]] = []
    for span in spans:
        if joined and joined[-1][1] == span.start:
            joined[-1] = joined[-1][0], span.end
        else:
            joined.append((span.start, span.end))
    return joined


@given(talks(), LIMITS)
def test_no_segment_is_longer_than_its_limit(talk: Talk, limit: int) -> None:
    plans = pack(cut(talk, limit, []), limit)
    assert [plan.index for plan in plans] == list(range(len(plans)))
    assert all(0 < plan.samples <= limit for plan in plans)


@given(talks(), LIMITS)
def test_a_segment_closes_only_when_the_next_span_does_not_fit(talk: Talk, limit: int) -> None:
    for before, after in pairwise(pack(cut(talk, limit, []), limit)):
        assert before.samples + after.spans[0].end - after.spans[0].start > limit


@given(talks(), LIMITS)
def test_a_cut_leaves_no_tiny_rest(talk: Talk, limit: int) -> None:
    uncut = set(talk.spans)
    assert all(span.end - span.start >= limit // 4 for span in cut(talk, limit, []) if span not in uncut)


@given(talks(), LIMITS)
def test_segment_time_maps_to_media_time_exactly(talk: Talk, limit: int) -> None:
    for plan in pack(cut(talk, limit, []), limit):
        inside = 0
        for piece in plan.pieces:
            for sample in {0, piece.samples // 2, piece.samples - 1}:
                assert to_media(plan, inside + sample) == piece.start + sample
                assert to_media(plan, inside + sample + 1, is_end=True) == piece.start + sample + 1
            inside += piece.samples
        mapped = [to_media(plan, sample) for sample in range(0, plan.samples + 1, 97)]
        assert mapped == sorted(mapped)


def test_an_end_where_two_pieces_meet_belongs_to_the_earlier() -> None:
    plan = Plan(0, (PlanPiece(1_000, 500), PlanPiece(9_000, 500)), (Span(1_000, 1_500), Span(9_000, 9_500)))
    assert to_media(plan, 500) == 9_000
    assert to_media(plan, 500, is_end=True) == 1_500


def test_times_outside_a_segment_map_to_its_first_and_last_sample() -> None:
    plan = Plan(0, (PlanPiece(1_000, 500), PlanPiece(9_000, 500)), (Span(1_000, 1_500), Span(9_000, 9_500)))
    assert to_media(plan, -3) == 1_000
    assert to_media(plan, 480_000) == to_media(plan, 480_000, is_end=True) == 9_500


def test_long_speech_is_cut_in_the_middle_of_its_quietest_frame() -> None:
    levels = [50] * 100
    levels[10] = 0  # before the earliest place for a cut: half the limit
    levels[70] = 3
    spans = Cutter(80 * FRAME).feed(levels, [Span(0, 100 * FRAME)])
    assert [span.end for span in spans] == [70 * FRAME + FRAME // 2, 100 * FRAME]


def test_of_equally_quiet_frames_the_latest_is_cut() -> None:
    spans = Cutter(80 * FRAME).feed([5] * 200, [Span(0, 200 * FRAME)])
    assert spans[0] == Span(0, 79 * FRAME + FRAME // 2)


def test_speech_that_never_pauses_is_given_while_it_goes_on() -> None:
    cutter = Cutter(480_000)
    parts: list[Span] = []
    for number in range(1, 200):
        parts += cutter.feed([7] * 512, (), talking=Span(0, number * 512 * FRAME), settled=0)
        assert number * 512 * FRAME - cutter.horizon < 1.25 * 480_000 + 512 * FRAME
        assert len(cutter._levels) < 2_000
    assert len(parts) > 100


def test_no_speech_is_a_plan_without_segments() -> None:
    assert pack(cut(Talk([], [0] * 100, 51_200), 480_000, [10]), 480_000) == []


def test_spans_that_touch_make_one_piece() -> None:
    assert pack([Span(0, 100), Span(100, 300), Span(400, 500)], 1_000) == [
        Plan(0, (PlanPiece(0, 300), PlanPiece(400, 100)), (Span(0, 100), Span(100, 300), Span(400, 500)))
    ]


@pytest.mark.parametrize("span", [Span(500, 500), Span(500, 1_600), Span(150, 300)])
def test_a_span_that_cannot_be_packed_is_refused_and_changes_nothing(span: Span) -> None:
    planner = Planner(1_000)
    planner.add(Span(0, 200))
    with pytest.raises(ValueError, match=r"allowed|before"):
        planner.add(span)
    assert planner.finish() == Plan(0, (PlanPiece(0, 200),), (Span(0, 200),))
