"""Cues are legal, whatever the phrases are."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from subtitled.cues.layout import Cue, Limits, layout
from subtitled.cues.phrases import Placed, Word
from subtitled.cues.text import clean, columns, is_mostly_wide


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_short_phrase_is_one_line() -> None:
    assert layout([Placed("  Hello,\n world ", 10, 900)]) == (Cue(10, 900, ("Hello, world",)),)


def test_no_phrases_are_no_cues() -> None:
    assert layout([]) == ()


def test_blank_phrase_is_no_cue() -> None:
    assert layout([Placed(" \t\x00", 0, 1000)]) == ()


def test_long_phrase_is_two_even_lines() -> None:
    text = "It is a truth universally acknowledged, that a single man"
    (cue,) = layout([Placed(text, 0, 3000)])
    assert cue.lines == ("It is a truth universally", "acknowledged, that a single man")


def test_very_long_phrase_becomes_several_cues_that_share_its_time() -> None:
    cues = layout([Placed(" ".join(["characters"] * 12), 0, 8000)])
    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [(0, 4000), (4000, 8000)]


def test_very_long_phrase_is_timed_by_its_words() -> None:
    starts_ms = {" first": (0, 100, 200, 300), " then": (5400, 5500, 5600, 5700)}
    words = tuple(Word(text, at, at + 50, 1.0) for text, starts in starts_ms.items() for at in starts)
    phrase = Placed("".join(word.text for word in words), 0, 9000, words)
    assert layout([phrase], Limits(lines=1, columns=23)) == (
        Cue(0, 350, ("first first first first",)),
        Cue(5400, 9000, ("then then then then",)),
    )


def test_words_that_do_not_spell_the_phrase_are_not_used() -> None:
    phrase = Placed("aaaa bbbb", 0, 1000, (Word("aaaa", 0, 10, 1.0),))
    assert layout([phrase], Limits(lines=1, columns=4)) == (Cue(0, 500, ("aaaa",)), Cue(500, 1000, ("bbbb",)))


def test_chinese_takes_sixteen_characters_a_line() -> None:
    (cue,) = layout([Placed("春" * 32, 0, 4000)])
    assert cue.lines == ("春" * 16, "春" * 16)


def test_word_wider_than_a_line_is_cut() -> None:
    (cue,) = layout([Placed("b" * 60, 0, 4000)])
    assert cue.lines == ("b" * 42, "b" * 18)


def test_overlapping_phrases_are_trimmed() -> None:
    assert layout([Placed("one", 0, 3000), Placed("two", 2000, 4000)]) == (
        Cue(0, 2000, ("one",)),
        Cue(2000, 4000, ("two",)),
    )


def test_phrases_of_one_moment_are_read_together() -> None:
    assert layout([Placed("one", 0, 3000), Placed("two", 0, 4000)]) == (Cue(0, 4000, ("one two",)),)


def test_phrase_without_time_joins_a_near_neighbour() -> None:
    assert layout([Placed("one", 0, 3000), Placed("two", 3500, 3500)]) == (Cue(0, 3000, ("one two",)),)


def test_phrase_without_time_and_neighbour_stays() -> None:
    assert layout([Placed("one", 0, 3000), Placed("two", 9000, 9000)]) == (
        Cue(0, 3000, ("one",)),
        Cue(9000, 9000, ("two",)),
    )


TEXTS = st.text(max_size=200) | st.text(alphabet="abc ,.。今天안\u0301\u200d👍\n", max_size=200)


@st.composite
def placed(draw: st.DrawFn) -> Placed:
    text = draw(TEXTS)
    start_ms = draw(st.integers(0, 20_000))
    words = (
        tuple(
            Word(f" {word}", draw(st.integers(0, 20_000)), draw(st.integers(0, 20_000)), 0.5)
            for word in text.split()
        )
        if draw(st.booleans())
        else ()
    )
    return Placed(text, start_ms, start_ms + draw(st.integers(0, 10_000)), words)


@given(st.lists(placed(), max_size=6), st.integers(1, 3), st.integers(2, 50))
def test_cues_are_legal_and_no_word_is_lost(phrases: list[Placed], lines: int, width: int) -> None:
    limits = Limits(lines=lines, columns=width, wide_columns=width)
    cues = layout(phrases, limits)
    for cue in cues:
        assert type(cue.start_ms) is type(cue.end_ms) is int
        assert 0 <= cue.start_ms <= cue.end_ms
        assert 1 <= len(cue.lines) <= lines
        assert all(line.strip() == line != "" and len(line.splitlines()) == 1 for line in cue.lines)
        assert all(columns(line) <= width for line in cue.lines)
    assert all(one.end_ms <= two.start_ms for one, two in pairwise(cues))
    said = "".join(clean(phrase.text) for phrase in sorted(phrases, key=lambda phrase: phrase.start_ms))
    assert squeezed("".join(line for cue in cues for line in cue.lines)) == squeezed(said)


def test_spaces_between_lines_make_no_line_wider_than_its_limit() -> None:
    """Found by chance: three lines of two columns, and the two spaces between them."""
    phrase = Placed("00 000 \u0300", 0, 1000, ())
    limits = Limits(lines=3, columns=2, wide_columns=2)
    assert [cue.lines for cue in layout([phrase], limits)] == [("00", "00", "0 \u0300")]
    # A mark alone takes no columns, and yet it begins the line.
    assert [cue.lines for cue in layout([Placed("\u0300 00", 0, 1000, ())], limits)] == [("\u0300", "00")]


@given(st.lists(placed(), max_size=6))
def test_each_cue_lies_within_a_phrase(phrases: list[Placed]) -> None:
    for cue in layout(phrases):
        assert any(phrase.start_ms <= cue.start_ms <= cue.end_ms <= phrase.end_ms for phrase in phrases)


def test_width_of_a_text_counts_full_width_twice_and_marks_not() -> None:
    assert [columns(text) for text in ("abc", "中文", "e\u0301", "カ", "ｶ")] == [3, 4, 1, 2, 1]
    assert is_mostly_wide("中文ab!")
    assert not is_mostly_wide("中abc")
