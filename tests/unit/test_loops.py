"""Repetitions in a decoded text are cut to one round, wherever they stand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitled.asr.loops import cut_loops, find_loop

END_OF_TEXT = 1000


def without_loops(text: str, repeats: int = 4) -> str | None:
    """Return a text of words with its loops cut, as the tokens of one part; None where nothing is cut."""
    vocabulary = sorted(set(text.split()))
    parts = [{"start": 0.0, "end": 9.0, "tokens": [vocabulary.index(word) for word in text.split()]}]
    cut = cut_loops(parts, lambda token: spell(vocabulary[token]), END_OF_TEXT, repeats)
    return None if cut is None else " ".join(vocabulary[token] for part in cut for token in part["tokens"])


def spell(word: str) -> str:
    return "".join(char for char in word.casefold() if char.isalnum())


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a a a a", "a"),
        ("a b a b a b a b", "a b"),
        ("a b c a b c a b c a b c a", "a b c"),
        ("x a b a b a b a b", "x a b"),
        ("x y z a b a b a b a b", "x y z a b"),
        ("a a a", None),
        ("a b a b a b", None),
        ("a b c d e f g h", None),
        ("", None),
        ("a", None),
        # In the middle of a text, with or without punctuation at the end.
        ("leaves at nine nine nine nine nine nine .", "leaves at nine ."),
        ("leaves at nine nine nine nine nine nine. in the morning", "leaves at nine in the morning"),
        ("the way it was a a a a", "the way it was a"),
        # Two loops.
        ("no no no no no and then yes yes yes yes yes", "no and then yes"),
        # Nearly the same: other case and punctuation, one word in five.
        ("Thank you. thank you, Thank You! thank you", "Thank you."),
        (
            "go down to the old river " * 2
            + "go down to the big river go down to the river go down to the old river and swim",
            "go down to the old river and swim",
        ),
    ],
)
def test_a_loop_is_cut_to_its_first_round(text: str, kept: str | None) -> None:
    assert without_loops(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "no no no I said no",
        "very very very good",
        "ha ha ha and again ha ha ha",
        # A refrain with verses between, and a song that counts.
        "let us go to the sea one day let us go to the sea by night let us go to the sea at noon let us go to the sea",
        " ".join(f"{number} green bottles on the wall" for number in ("one", "two", "three", "four", "five")),
        "我们 去 钓鱼 我们 去 钓鱼 我们 去 钓鱼",
    ],
)
def test_what_people_repeat_stays(text: str) -> None:
    assert without_loops(text) is None


@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_a_long_loop_is_found_whatever_stands_before_and_after_it(before: list[int], unit: list[int]) -> None:
    after = [9, *before]
    words = [*before, *unit * (4 + 2 * len(before)), *after]
    loop = find_loop(words, 4)
    assert loop is not None
    assert loop.round_end <= len(before) + len(unit)
    assert loop.end >= len(words) - len(after)
    assert loop.rounds >= 4


@given(st.lists(st.integers(0, 50), unique=True, max_size=40))
def test_a_text_without_repetition_is_left_alone(words: list[int]) -> None:
    assert find_loop(words, 2) is None


def part(start: float, end: float, *tokens: int) -> dict[str, Any]:
    return {"seek": 0, "start": start, "end": end, "tokens": list(tokens)}


def test_parts_that_only_repeat_the_first_are_dropped_and_its_times_stay() -> None:
    parts = [
        part(0, 1, END_OF_TEXT + 1, 7, 8, END_OF_TEXT + 50),
        *(part(i, i + 1, 7, 8) for i in range(1, 5)),
    ]
    assert cut_loops(parts, str, END_OF_TEXT, 4) == parts[:1]


def test_a_part_that_ends_in_a_loop_is_left_open() -> None:
    """Its closing timestamp is the end of the last round."""
    begin, end = END_OF_TEXT + 1, END_OF_TEXT + 50
    cut = cut_loops([part(0, 9, begin, 1, *[7, 8] * 9, end)], str, END_OF_TEXT, 4)
    assert cut == [part(0, 9, begin, 1, 7, 8)]


def test_a_part_that_goes_on_after_a_loop_keeps_its_end() -> None:
    begin, end = END_OF_TEXT + 1, END_OF_TEXT + 50
    cut = cut_loops([part(0, 9, begin, *[7, 8] * 9, 5, end)], str, END_OF_TEXT, 4)
    assert cut == [part(0, 9, begin, 7, 8, 5, end)]


def test_what_does_not_loop_is_not_cut() -> None:
    assert cut_loops([part(0, 1, 7, 8), part(1, 2, 7, 9)], str, END_OF_TEXT, 2) is None
    assert cut_loops([], str, END_OF_TEXT, 4) is None
