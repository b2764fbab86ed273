"""A phrase's edges are where the model's timestamp tokens put them."""

from __future__ import annotations

import pytest

from subtitled.asr.alignment import is_rushed, split

BEGIN = 1000
"""The token of timestamp 0; each one after it is 20 ms later."""


@pytest.mark.parametrize(
    ("tokens", "edges"),
    [
        pytest.param([1010, 5, 6, 1100], [(10.2, 12.0)], id="both are given"),
        pytest.param([1000, 5, 6, 1100], [(10.0, 12.0)], id="it starts with the window"),
        pytest.param([5, 6, 1100], [(10.0, 12.0)], id="no start is given"),
        pytest.param([1010, 5, 6], [(10.2, 13.0)], id="no end is given"),
        pytest.param([1100, 5, 6, 1100], [(10.0, 12.0)], id="both are the same"),
        pytest.param([1200, 5, 6, 1250], [(10.0, 13.0)], id="both are beyond the audio"),
        pytest.param([1000, 5, 1050, 1060, 6, 1100], [(10.0, 11.0), (11.2, 12.0)], id="two phrases"),
        pytest.param(
            [1000, 5, 1050, 6, 1100], [(10.0, 11.0), (11.0, 12.0)], id="one ends where the next starts"
        ),
        pytest.param([1000, 5, 1050, 1050, 6], [(10.0, 11.0), (11.0, 13.0)], id="the last one is unfinished"),
        pytest.param([1000, 5, 1050, 1050], [(10.0, 11.0)], id="the last one has no text"),
        pytest.param(
            [1000, 5, 1050, 1200, 6], [(10.0, 11.0), (11.0, 13.0)], id="the last one starts too late"
        ),
        pytest.param([1000], [], id="no text"),
        pytest.param([], [], id="nothing at all"),
    ],
)
def test_phrases_have_the_edges_of_their_tokens(tokens: list[int], edges: list[tuple[float, float]]) -> None:
    """The window is from 10 to 13 s of its segment."""
    parts = split(tokens, BEGIN, 1000, 1300)
    assert [(part["start"], part["end"]) for part in parts] == [pytest.approx(edge) for edge in edges]


def test_phrases_keep_all_tokens_and_a_closing_timestamp_where_there_is_one() -> None:
    parts = split([1000, 5, 6, 1050, 1060, 7], BEGIN, 0, 3000)
    assert [part["tokens"] for part in parts] == [[1000, 5, 6, 1050], [1060, 7]]
    assert {part["seek"] for part in parts} == {0}


@pytest.mark.parametrize(
    ("words", "seconds", "is_wrong"), [(13, 0.8, True), (17, 0.0, True), (13, 3.5, False), (3, 0.2, False)]
)
def test_a_phrase_that_is_too_long_for_its_time_has_wrong_timestamps(
    words: int, seconds: float, is_wrong: bool
) -> None:
    part = {"start": 1.0, "end": 1.0 + seconds, "tokens": [BEGIN, *range(words), BEGIN + 9]}
    assert is_rushed(part, BEGIN) == is_wrong
