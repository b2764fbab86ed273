"""An uncertain language is decided by how certain the text of each candidate is; speech in several languages is divided."""

from __future__ import annotations

import pytest

from subtitled.asr.coverage import TimeRange
from subtitled.asr.language_choice import (
    MAX_PARTS,
    LanguageRun,
    language_runs,
    most_certain,
    parts_by_pauses,
    parts_to_compare,
)

CANDIDATES = [("pl", 0.43), ("ru", 0.12), ("fr", 0.04)]


def test_language_with_the_most_certain_text_is_chosen() -> None:
    logprobs = {"pl": (-1.09, -1.23), "ru": (-1.02, -0.80), "fr": (-0.87, -0.64)}
    assert most_certain([(0, 352), (352, 694)], CANDIDATES, logprobs) == ("fr", 0.04)


def test_longer_parts_weigh_more() -> None:
    logprobs = {"pl": (-0.1, -1.0), "ru": (-1.0, -0.2), "fr": (-2.0, -2.0)}
    assert most_certain([(0, 100), (100, 900)], CANDIDATES, logprobs) == ("ru", 0.12)


def test_detected_language_wins_a_tie() -> None:
    assert most_certain([(0, 100)], CANDIDATES, dict.fromkeys(("pl", "ru", "fr"), (-0.5,))) == ("pl", 0.43)


def test_segment_without_seams_is_one_part() -> None:
    assert parts_to_compare(690, ()) == [(0, 690)]


def test_longest_parts_are_compared_and_seams_outside_the_segment_ignored() -> None:
    parts = parts_to_compare(1000, (100, 500, 550, 1000, 1200))
    assert parts == [(550, 1000), (100, 500)]
    assert len(parts) == MAX_PARTS


def speech(*edges: tuple[float, float]) -> list[TimeRange]:
    return [TimeRange(*edge) for edge in edges]


@pytest.mark.parametrize(
    ("spans", "sizes"),
    [
        pytest.param(((0, 3), (4, 7)), [1, 1], id="a pause after enough speech divides"),
        pytest.param(((0, 1), (2, 3), (4, 6)), [2, 1], id="short stretches are examined together"),
        pytest.param(((0, 3), (3.1, 6)), [2], id="a breath does not divide"),
        pytest.param(((0, 3), (4, 4.9)), [2], id="the end is too short to examine"),
        pytest.param(((0, 0.5),), [1], id="all is short"),
    ],
)
def test_speech_is_divided_at_pauses(spans: tuple[tuple[float, float], ...], sizes: list[int]) -> None:
    parts = parts_by_pauses(speech(*spans))
    assert [len(part) for part in parts] == sizes
    assert [span for part in parts for span in part] == speech(*spans)


CHINESE, ENGLISH = [("zh", 0.98), ("en", 0.01)], [("en", 0.96), ("cy", 0.02), ("zh", 0.01)]


def test_runs_of_one_language_meet_in_the_pause_between_them() -> None:
    parts = [speech((0.4, 8)), speech((9, 12)), speech((14, 18))]
    assert language_runs(parts, [CHINESE, CHINESE, ENGLISH], 19.0) == [
        LanguageRun(0.0, 13.0, "zh", 0.98),
        LanguageRun(13.0, 19.0, "en", 0.96),
    ]


def test_language_may_return() -> None:
    parts = [speech((0, 3)), speech((4, 7)), speech((8, 11))]
    runs = language_runs(parts, [ENGLISH, CHINESE, ENGLISH], 11.0)
    assert [run.language for run in runs] == ["en", "zh", "en"]


def test_uncertain_part_is_in_a_language_that_another_part_has() -> None:
    """A short greeting that is detected as Welsh with little certainty."""
    parts = [speech((0, 8)), speech((9, 11))]
    runs = language_runs(parts, [ENGLISH, [("cy", 0.4), ("en", 0.3), ("zh", 0.1)]], 12.0)
    assert [(run.language, run.start_s, run.end_s) for run in runs] == [("en", 0.0, 12.0)]


def test_language_of_an_uncertain_segment_is_the_most_probable_over_all_its_speech() -> None:
    parts = [speech((0, 8)), speech((9, 11))]
    runs = language_runs(parts, [[("pl", 0.4), ("ru", 0.3)], [("ru", 0.5), ("pl", 0.4)]], 12.0)
    assert [run.language for run in runs] == ["pl"]
