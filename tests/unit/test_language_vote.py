"""The vote on a file's language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitled.core.job_lifecycle import language_vote
from subtitled.core.plan import Plan, Span
from subtitled.core.records import Segment, SegmentKey
from subtitled.core.states import SegmentState


def vote(*votes: tuple[str, float], speech: tuple[int, ...] = ()) -> tuple[str, float] | None:
    """Return the result of a vote among segments with these languages and probabilities, and samples of `speech`."""
    spans: list[tuple[Span, ...]] = [(Span(0, samples),) for samples in speech] or [()] * len(votes)
    return language_vote(
        Segment(
            key=SegmentKey("a", index),
            state=SegmentState.DONE,
            plan=Plan(index, (), spans[index]),
            language=language,
            language_probability=probability,
        )
        for index, (language, probability) in enumerate(votes)
    )


def test_without_votes_there_is_no_result() -> None:
    assert vote() is None


def test_one_confident_segment_outweighs_two_guesses() -> None:
    assert vote(("la", 0.3), ("de", 0.9), ("la", 0.2)) == ("de", 0.9)


def test_speech_outweighs_a_musical_intro() -> None:
    """The first segment, music, is recognised as Latin; the speech after it decides."""
    result = vote(("la", 0.8), ("de", 0.9), ("de", 0.7))
    assert result is not None
    assert result[0] == "de"
    assert result[1] == pytest.approx(0.8)


def test_a_tie_goes_to_the_language_code_that_sorts_first() -> None:
    assert vote(("fr", 0.5), ("de", 0.5)) == ("de", 0.5)


def test_a_tie_goes_to_the_language_with_more_speech() -> None:
    assert vote(("en", 0.5), ("zh", 0.5), speech=(16_000, 480_000)) == ("zh", 0.5)
    assert vote(("en", 0.5), ("zh", 0.5), speech=(480_000, 16_000)) == ("en", 0.5)


@given(st.lists(st.tuples(st.sampled_from(["de", "en", "fr"]), st.floats(0.01, 1)), min_size=1))
def test_no_language_outweighs_the_winner(votes: list[tuple[str, float]]) -> None:
    result = vote(*votes)
    assert result is not None
    winner, probability = result
    weights = {code: sum(p for language, p in votes if language == code) for code in ("de", "en", "fr")}
    assert weights[winner] == pytest.approx(max(weights.values()))
    assert 0 < probability <= 1.000001
