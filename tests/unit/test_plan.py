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
    heard = given = 0
    for step in steps:
        before, heard = heard, min(heard + step, len(talk.levels))
        sample = heard * FRAME
        if sample >= talk.end:
            heard = before
            break
        ended = [span for span in talk.spans[given:] if span.end <= sample]
        given += len(ended)
        going = talk.spans[given] if given < len(talk.spans) and talk.spans[given].start < sample else None
        talking = None if going is None else Span(going.start, sample)
        settled = sample if talking is None else talking.start
        final += cutter.feed(talk.levels[before:heard], ended, talking=talking, settled=settled)
        assert len(cutter._levels) * FRAME <= max_samples * 1.25 + step * FRAME + 2 * FRAME
        assert all(span.end <= cutter.horizon for span in final)
    final += cutter.feed(talk.levels[heard:], talk.spans[given:], settled=talk.end)
    return final


def pack(spans: Iterable[Span], max_samples: int, *, pad: int = 0, max_pause: int = 0) -> list[Plan]:
    """Plan the spans of a recording that ends 100 samples after the last one."""
    planner = Planner(max_samples, pad=pad, max_pause=max_pause)
    plans, end = [], 0
    for span in spans:
        plans += planner.add(span)
        end = span.end + 100
    last = planner.finish(end)
    return plans if last is None else [*plans, last]


LIMITS = st.integers(11 * FRAME, 60_000)
STEPS = st.lists(st.integers(1, 200), max_size=30)
PADS = st.sampled_from([0, 1, 300, 3_200, 6_400])
PAUSES = st.sampled_from([0, 500, 8_000, 32_000])


def packed(talk: Talk, limit: int, pad: int = 0, pause: int = 0, steps: Iterable[int] = ()) -> list[Plan]:
    """Cut and plan a talk."""
    longest = Planner(limit, pad=pad, max_pause=pause).longest_span
    return pack(cut(talk, longest, steps), limit, pad=pad, max_pause=pause)


@given(talks(), LIMITS, STEPS)
def test_a_plan_does_not_depend_on_how_it_was_fed(talk: Talk, limit: int, steps: list[int]) -> None:
    assert cut(talk, limit, steps) == cut(talk, limit, []) == cut(talk, limit, [1] * len(talk.levels))


@given(talks(), LIMITS, PADS, PAUSES, STEPS)
def test_no_speech_sample_is_lost_or_given_twice(
    talk: Talk, limit: int, pad: int, pause: int, steps: list[int]
) -> None:
    plans = packed(talk, limit, pad, pause, steps)
    given_spans = [span for plan in plans for span in plan.spans]
    assert all(before.end <= after.start for before, after in pairwise(given_spans))
    assert runs(given_spans) == runs(talk.spans)
    pieces = [Span(piece.start, piece.start + piece.samples) for plan in plans for piece in plan.pieces]
    assert all(before.end <= after.start for before, after in pairwise(pieces))
    for plan in plans:
        for span in plan.spans:
            assert any(
                piece.start <= span.start and span.end <= piece.start + piece.samples for piece in plan.pieces
            )


@given(talks(), LIMITS, PADS, PAUSES)
def test_short_pauses_stay_and_of_long_ones_the_padding(talk: Talk, limit: int, pad: int, pause: int) -> None:
    kept = min(pad, limit // 8)
    for plan in packed(talk, limit, pad, pause):
        for before, after in pairwise(plan.spans):
            is_one_piece = any(
                piece.start <= before.start and after.end <= piece.start + piece.samples
                for piece in plan.pieces
            )
            assert is_one_piece == (after.start - before.end <= max(pause, 2 * kept))
        for one, other in pairwise(plan.pieces):
            end = one.start + one.samples
            assert any(span.end + kept == end for span in plan.spans)
            assert any(span.start - kept == other.start for span in plan.spans)


@given(talks(), LIMITS, PADS, PAUSES)
def test_a_segment_knows_where_it_has_speech_and_where_audio_was_left_out(
    talk: Talk, limit: int, pad: int, pause: int
) -> None:
    for plan in packed(talk, limit, pad, pause):
        sound = plan.sound()
        spans = [
            Span(to_media(plan, span.start), to_media(plan, span.end, is_end=True)) for span in sound.speech
        ]
        assert tuple(spans) == plan.spans
        assert len(sound.seams) == len(plan.pieces) - 1
        for seam, (one, other) in zip(sound.seams, pairwise(plan.pieces), strict=True):
            assert (to_media(plan, seam, is_end=True), to_media(plan, seam)) == (
                one.start + one.samples,
                other.start,
            )


def runs(spans: Iterable[Span]) -> list[tuple[int, int]]:
    """Join what touches."""
    joined: list[tuple[int, int]] = []
    for span in spans:
        if joined and joined[-1][1] == span.start:
            joined[-1] = joined[-1][0], span.end
        else:
            joined.append((span.start, span.end))
    return joined


@given(talks(), LIMITS, PADS, PAUSES)
def test_no_segment_is_longer_than_its_limit(talk: Talk, limit: int, pad: int, pause: int) -> None:
    plans = packed(talk, limit, pad, pause)
    assert [plan.index for plan in plans] == list(range(len(plans)))
    assert all(0 < plan.samples <= limit for plan in plans)


@given(talks(), LIMITS)
def test_a_segment_ends_when_the_next_span_does_not_fit_at_a_pause_of_its_last_quarter(
    talk: Talk, limit: int
) -> None:
    """Or before that span, where no pause is in the last quarter."""
    spans = cut(talk, limit, [])
    for before, after in pairwise(pack(spans, limit)):
        ends = spans[spans.index(before.spans[0]) :]
        fitting: list[Span] = []
        for span in ends:
            if sum(one.end - one.start for one in [*fitting, span]) > limit:
                break
            fitting.append(span)
        following = ends[len(fitting)]
        pauses = {
            one.end: other.start - one.end
            for at, (one, other) in enumerate(pairwise([*fitting, following]), start=1)
            if 4 * sum(span.end - span.start for span in fitting[:at]) >= 3 * limit or other is following
        }
        assert pauses[before.spans[-1].end] == max(pauses.values())
        assert after.spans[0] in ends


@given(talks(), LIMITS)
def test_a_cut_leaves_no_tiny_rest(talk: Talk, limit: int) -> None:
    uncut = set(talk.spans)
    assert all(span.end - span.start >= limit // 4 for span in cut(talk, limit, []) if span not in uncut)


@given(talks(), LIMITS, PADS, PAUSES)
def test_segment_time_maps_to_media_time_exactly(talk: Talk, limit: int, pad: int, pause: int) -> None:
    for plan in packed(talk, limit, pad, pause):
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


def test_padding_ends_with_the_audio_and_is_shared_by_segments() -> None:
    """Between two segments each gets half of a pause that is too short for both paddings."""
    spans = [Span(50, 450), Span(510, 910)]
    first, last = pack(spans, 800, pad=100, max_pause=200)
    assert first.pieces == (PlanPiece(0, 480),)
    assert last.pieces == (PlanPiece(480, 530),)


def test_a_long_pause_is_shortened_to_its_padding() -> None:
    [plan] = pack([Span(1_000, 1_500), Span(9_000, 9_500), Span(9_600, 9_900)], 8_000, pad=100, max_pause=300)
    assert plan.pieces == (PlanPiece(900, 700), PlanPiece(8_900, 1_100))
    assert plan.sound().speech == (Span(100, 600), Span(800, 1_300), Span(1_400, 1_700))
    assert plan.sound().seams == (700,)


@given(talks(), LIMITS, PADS, PAUSES)
def test_what_may_still_be_needed_holds_all_of_each_segment(
    talk: Talk, limit: int, pad: int, pause: int
) -> None:
    planner = Planner(limit, pad=pad, max_pause=pause)
    held = [Span(0, talk.end)]
    for span in cut(talk, planner.longest_span, []):
        held = _common(held, planner.needed(span.start))
        for plan in planner.add(span):
            assert _holds(held, plan)
        held = _common(held, planner.needed(span.end))
    last = planner.finish(talk.end)
    assert last is None or _holds(held, last)


def _common(held: list[Span], needed: list[Span]) -> list[Span]:
    both = [Span(max(a.start, b.start), min(a.end, b.end)) for a in held for b in needed]
    return [span for span in both if span.start < span.end]


def _holds(held: list[Span], plan: Plan) -> bool:
    return all(
        runs(_common(held, [Span(piece.start, piece.start + piece.samples)]))
        == [(piece.start, piece.start + piece.samples)]
        for piece in plan.pieces
    )


@pytest.mark.parametrize("span", [Span(500, 500), Span(500, 1_600), Span(150, 300)])
def test_a_span_that_cannot_be_packed_is_refused_and_changes_nothing(span: Span) -> None:
    planner = Planner(1_000)
    planner.add(Span(0, 200))
    with pytest.raises(ValueError, match=r"allowed|before"):
        planner.add(span)
    assert planner.finish() == Plan(0, (PlanPiece(0, 200),), (Span(0, 200),))
