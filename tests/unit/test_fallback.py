"""What is taken of a text that says one thing again and again, and what looks wrong at all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitled.asr.fallback import DecodingAttempt, cut_loop, loop_end

END_OF_TEXT = 1000
OPTIONS: Any = SimpleNamespace(
    compression_ratio_threshold=2.4, log_prob_threshold=-1.0, no_speech_threshold=0.6
)


def attempt(*, logprob: float = -0.3, ratio: float = 1.2, no_speech_prob: float = 0.1) -> DecodingAttempt:
    return DecodingAttempt(
        SimpleNamespace(no_speech_prob=no_speech_prob, sequences_ids=[[]]), logprob, ratio, 0.0
    )


@pytest.mark.parametrize(
    ("made", "doubt", "is_silence"),
    [
        (attempt(), None, False),
        (attempt(ratio=2.5), "compression_ratio", False),
        (attempt(ratio=2.4), None, False),
        (attempt(logprob=-1.1), "log_prob", False),
        (attempt(logprob=-1.0), None, False),
        (attempt(logprob=-1.1, no_speech_prob=0.7), None, True),
        (attempt(logprob=-1.1, no_speech_prob=0.7, ratio=9), None, True),
        (attempt(logprob=-0.9, no_speech_prob=0.7, ratio=9), "compression_ratio", False),
        (attempt(logprob=-1.0, no_speech_prob=0.7), None, True),
    ],
)
def test_results_are_judged_as_faster_whisper_does(
    made: DecodingAttempt, doubt: str | None, is_silence: bool
) -> None:
    assert (made.doubt(OPTIONS), made.is_silence(OPTIONS)) == (doubt, is_silence)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("aaaa", "a"),
        ("abababab", "ab"),
        ("abcabcabcabca", "abc"),
        ("xabababab", "xab"),
        ("xyzabababab", "xyzab"),
        ("aaa", None),
        ("ababab", None),
        ("abcdefgh", None),
        ("the way it was aaaa", None),
        ("", None),
        ("a", None),
    ],
)
def test_a_loop_is_cut_to_its_first_round(text: str, kept: str | None) -> None:
    end = loop_end([ord(letter) for letter in text], 4)
    assert (None if end is None else text[:end]) == kept


@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_what_is_repeated_most_of_the_time_is_said_once(before: list[int], unit: list[int]) -> None:
    tokens = [*before, *unit * (4 + 2 * len(before))]
    end = loop_end(tokens, 4)
    assert end is not None
    assert end <= len(before) + len(unit)
    assert loop_end(tokens[:end], 4) in {None, *range(end)}


@given(st.lists(st.integers(0, 50), unique=True, max_size=40))
def test_a_text_without_repetition_is_left_alone(tokens: list[int]) -> None:
    assert loop_end(tokens, 2) is None


def part(start: float, end: float, *tokens: int) -> dict[str, Any]:
    return {"seek": 0, "start": start, "end": end, "tokens": list(tokens)}


def test_the_times_of_what_is_kept_stay() -> None:
    parts = [
        part(0, 1, END_OF_TEXT + 1, 7, 8, END_OF_TEXT + 50),
        *(part(i, i + 1, 7, 8) for i in range(1, 5)),
    ]
    assert cut_loop(parts, END_OF_TEXT, 4) == parts[:1]


def test_a_loop_inside_one_part_is_cut_inside_it() -> None:
    assert cut_loop([part(0, 9, 1, *[7, 8] * 9)], END_OF_TEXT, 4) == [part(0, 9, 1, 7, 8)]


def test_what_does_not_loop_is_not_cut() -> None:
    assert cut_loop([part(0, 1, 7, 8), part(1, 2, 7, 9)], END_OF_TEXT, 2) is None
    assert cut_loop([], END_OF_TEXT, 4) is None
