"""The vote on a file's language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitled.core.ballot import VOTES, Ballot


def ballot(*votes: tuple[str, float]) -> Ballot:
    """Return a ballot with these votes in it."""
    made = Ballot()
    for language, probability in votes:
        made.add(language, probability)
    return made


def test_nobody_voted_so_there_is_no_verdict() -> None:
    assert ballot().verdict() is None
    assert not ballot().is_enough


def test_one_sure_voice_outweighs_two_guesses() -> None:
    assert ballot(("la", 0.3), ("de", 0.9), ("la", 0.2)).verdict() == ("de", 0.9)


def test_language_vote_outvotes_a_musical_intro() -> None:
    """The first segment, music, is heard as Latin with some confidence; the speech after it decides."""
    verdict = ballot(("la", 0.8), ("de", 0.9), ("de", 0.7)).verdict()
    assert verdict is not None
    assert verdict[0] == "de"
    assert verdict[1] == pytest.approx(0.8)


def test_a_tie_goes_to_the_lesser_code() -> None:
    assert ballot(("fr", 0.5), ("de", 0.5)).verdict() == ("de", 0.5)


def test_four_votes_are_enough() -> None:
    votes = [("de", 0.5)] * VOTES
    assert not ballot(*votes[1:]).is_enough
    assert ballot(*votes).is_enough
    assert VOTES == 4


@given(st.lists(st.tuples(st.sampled_from(["de", "en", "fr"]), st.floats(0.01, 1)), min_size=1))
def test_no_language_outweighs_the_winner(votes: list[tuple[str, float]]) -> None:
    verdict = ballot(*votes).verdict()
    assert verdict is not None
    winner, probability = verdict
    weights = {code: sum(p for language, p in votes if language == code) for code in ("de", "en", "fr")}
    assert weights[winner] == pytest.approx(max(weights.values()))
    assert 0 < probability <= 1.000001
