"""An uncertain language is decided by how certain the text of each candidate is."""

from __future__ import annotations

from subtitled.asr.language_choice import MAX_PARTS, most_certain, parts_to_compare

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
