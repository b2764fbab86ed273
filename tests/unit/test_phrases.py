"""Phrases keep all their text when segment time becomes media time."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from subtitled.core.plan import PlanPiece, Span
from subtitled.core.transcription import Phrase, Word
from subtitled.cues.phrases import MediaPhrase, to_media_time
from subtitled.cues.text import units

SECOND = 16_000
GAP = (PlanPiece(2 * SECOND, 3 * SECOND), PlanPiece(10 * SECOND, 5 * SECOND))
"""Segment 0 to 3 s is media 2 to 5 s; segment 3 to 8 s is media 10 to 15 s."""


def spans_of(pieces: tuple[PlanPiece, ...]) -> tuple[Span, ...]:
    return tuple(Span(piece.start, piece.start + piece.samples) for piece in pieces)


def placed(
    *phrases: Phrase, pieces: tuple[PlanPiece, ...] = GAP, offset_samples: int = 0
) -> tuple[MediaPhrase, ...]:
    return to_media_time(phrases, pieces, spans_of(pieces), offset_samples)


def times(result: tuple[MediaPhrase, ...]) -> list[tuple[str, int, int]]:
    return [(phrase.text, phrase.start_ms, phrase.end_ms) for phrase in result]


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_phrase_is_mapped_to_the_time_of_its_audio() -> None:
    assert times(placed(Phrase(" one", 500, 1500), Phrase(" two", 4000, 5000))) == [
        ("one", 2500, 3500),
        ("two", 11000, 12000),
    ]


def test_phrase_that_starts_in_the_padding_before_a_gap_is_not_split() -> None:
    """Whisper starts a phrase where the last one ended; its first words are not in the silence there."""
    assert times(placed(Phrase(" It is twelve in the morning", 2700, 5700))) == [
        ("It is twelve in the morning", 10000, 12700)
    ]
    assert times(placed(Phrase(" It is twelve", 500, 3200))) == [("It is twelve", 2500, 5000)]


def test_late_word_does_not_cross_a_gap_to_where_there_is_no_speech() -> None:
    """The last word of a sentence is aligned after a removed gap of five seconds, before the speech there."""
    words = (Word(" never", 2000, 2400, 0.9), Word(" surpassed.", 3050, 3700, 0.4))
    speech = (Span(2 * SECOND, 5 * SECOND), Span(11 * SECOND, 14 * SECOND))
    [found] = to_media_time([Phrase(" never surpassed.", 2000, 3700, words)], GAP, speech, 0)
    assert (found.text, found.start_ms, found.end_ms) == ("never surpassed.", 4000, 5000)
    assert [(word.start_ms, word.end_ms) for word in found.words] == [(4000, 4400), (5000, 5000)]
    # The same for a first word that is aligned too early.
    words = (Word(" Never", 2500, 2900, 0.4), Word(" surpassed.", 4050, 4700, 0.9))
    speech = (Span(2 * SECOND, 4 * SECOND), Span(11 * SECOND, 14 * SECOND))
    [found] = to_media_time([Phrase(" Never surpassed.", 2500, 4700, words)], GAP, speech, 0)
    assert (found.text, found.start_ms, found.end_ms) == ("Never surpassed.", 10_000, 11_700)


def test_scores_are_kept_with_the_phrase() -> None:
    phrase = Phrase("one", 0, 1000, (), -0.3, 1.2, 0.1, 0.4)
    assert placed(phrase) == (MediaPhrase("one", 2000, 3000, (), -0.3, 1.2, 0.1, 0.4),)


def test_start_of_the_audio_stream_is_added() -> None:
    assert times(placed(Phrase("one", 0, 1000), offset_samples=SECOND // 2)) == [("one", 2500, 3500)]


def test_no_time_is_negative() -> None:
    pieces = (PlanPiece(0, SECOND),)
    assert times(placed(Phrase("one", 0, 1000), pieces=pieces, offset_samples=-400)) == [("one", 0, 975)]


def test_phrase_that_ends_at_a_gap_does_not_cross_it() -> None:
    assert times(placed(Phrase("one", 1000, 3000), Phrase("two", 3000, 4000))) == [
        ("one", 3000, 5000),
        ("two", 10000, 11000),
    ]


def test_phrase_across_a_gap_is_split_in_proportion_to_time() -> None:
    assert times(placed(Phrase("aaaa bbbb cccc dddd", 1000, 5000))) == [
        ("aaaa bbbb", 3000, 5000),
        ("cccc dddd", 10000, 12000),
    ]


def test_chinese_across_a_gap_is_split_between_characters() -> None:
    assert times(placed(Phrase("今天天气很好。", 2000, 4000))) == [
        ("今天天", 4000, 5000),
        ("气很好。", 10000, 11000),
    ]


def test_phrase_across_a_gap_is_split_by_its_words() -> None:
    words = (Word(" aaaa", 1000, 1200, 0.9), Word(" b", 3100, 4000, 0.8), Word(" c", 4000, 5000, 0.7))
    assert placed(Phrase(" aaaa b c", 1000, 5000, words)) == (
        MediaPhrase("aaaa", 3000, 5000, (Word(" aaaa", 3000, 3200, 0.9),), is_continued=True),
        MediaPhrase("b c", 10000, 12000, (Word(" b", 10100, 11000, 0.8), Word(" c", 11000, 12000, 0.7))),
    )


def test_word_across_a_gap_belongs_to_the_side_with_more_of_it() -> None:
    words = (Word("one", 2800, 3800, 0.9),)
    assert placed(Phrase("one", 2800, 3800, words)) == (
        MediaPhrase("one", 10000, 10800, (Word("one", 10000, 10800, 0.9),)),
    )


def test_words_stay_within_their_phrase_and_do_not_overlap() -> None:
    words = (Word("one", 100, 900, 0.9), Word(" two", 700, 1200, 0.9), Word(" three", 1100, 1900, 0.9))
    [phrase] = placed(Phrase("one two three", 500, 1500, words))
    assert [(word.start_ms, word.end_ms) for word in phrase.words] == [
        (2500, 2900),
        (2900, 3200),
        (3200, 3500),
    ]


def test_adjacent_pieces_are_one_run_of_audio() -> None:
    pieces = (PlanPiece(0, SECOND), PlanPiece(SECOND, SECOND))
    assert times(placed(Phrase("one two", 0, 2000), pieces=pieces)) == [("one two", 0, 2000)]


def test_times_beyond_the_segment_are_limited_to_it() -> None:
    assert times(placed(Phrase("one", 7000, 30_000), Phrase("two", 29_000, 30_000))) == [
        ("one", 14000, 15000),
        ("two", 15000, 15000),
    ]


def test_blank_phrase_is_omitted() -> None:
    assert placed(Phrase(" \n", 0, 1000)) == ()


def test_phrase_that_overlaps_the_next_ends_at_its_start() -> None:
    assert times(placed(Phrase("one", 0, 2000), Phrase("two", 1000, 2500))) == [
        ("one", 2000, 3000),
        ("two", 3000, 4500),
    ]


def test_times_are_rounded_into_the_piece() -> None:
    """The piece does not start or end at a whole millisecond: samples 7 to 39 are 0.4 to 2.4 ms."""
    assert times(placed(Phrase("one", 0, 1000), pieces=(PlanPiece(7, 32),))) == [("one", 1, 2)]


PIECES = st.lists(
    st.tuples(st.integers(0, 3 * SECOND), st.integers(16, 5 * SECOND)), min_size=1, max_size=6
).map(
    lambda runs: tuple(
        PlanPiece(sum(gap + samples for gap, samples in runs[:at]) + runs[at][0], runs[at][1])
        for at in range(len(runs))
    )
)
TEXTS = st.text(alphabet="ab ,。今天-'\u0301\n", max_size=30)
TIMES = st.integers(-100, 31_000)
PHRASES = st.lists(st.builds(Phrase, TEXTS, TIMES, TIMES), max_size=6)


@given(PHRASES, PIECES, st.integers(-SECOND, SECOND))
def test_no_text_is_lost_and_times_are_in_order(
    phrases: list[Phrase], pieces: tuple[PlanPiece, ...], offset_samples: int
) -> None:
    result = to_media_time(phrases, pieces, spans_of(pieces), offset_samples)
    said = "".join(phrase.text for phrase in sorted(phrases, key=lambda phrase: phrase.start_ms))
    assert squeezed("".join(phrase.text for phrase in result)) == squeezed(said)
    assert all(phrase.start_ms <= phrase.end_ms for phrase in result)
    assert all(one.end_ms <= two.start_ms for one, two in pairwise(result))


@given(PHRASES, PIECES)
def test_each_mapped_phrase_lies_in_one_run_of_audio(
    phrases: list[Phrase], pieces: tuple[PlanPiece, ...]
) -> None:
    runs: list[tuple[int, int]] = []
    for piece in pieces:
        start = runs.pop()[0] if runs and runs[-1][1] == piece.start else piece.start
        runs.append((start, piece.start + piece.samples))
    for phrase in to_media_time(phrases, pieces, spans_of(pieces), 0):
        assert any(
            start <= phrase.start_ms * 16 < end + 16 and phrase.end_ms * 16 < end + 16 for start, end in runs
        )


@given(
    st.lists(
        st.tuples(TEXTS.map(squeezed).filter(bool), TIMES, st.integers(0, 2000)), min_size=1, max_size=8
    ),
    PIECES,
)
def test_no_word_is_lost_when_its_phrase_is_split(
    heard: list[tuple[str, int, int]], pieces: tuple[PlanPiece, ...]
) -> None:
    words = tuple(Word(f" {text}", start, start + length, 0.5) for text, start, length in heard)
    phrase = Phrase("".join(word.text for word in words), 0, 30_000, words)
    result = to_media_time([phrase], pieces, spans_of(pieces), 0)
    assert [word.text for part in result for word in part.words] == [word.text for word in words]
    for part in result:
        assert squeezed(part.text) == squeezed("".join(word.text for word in part.words))
        for word in part.words:
            assert part.start_ms <= word.start_ms <= word.end_ms <= max(part.end_ms, word.start_ms)
        assert all(one.end_ms <= two.start_ms for one, two in pairwise(part.words))


@given(TEXTS)
def test_joined_units_are_the_text(text: str) -> None:
    assert "".join(units(text)) == text


def test_closing_punctuation_stays_with_the_character_before_it() -> None:
    assert units("你好。「世界」。") == ("你", "好。", "「世", "界」。")


def test_korean_breaks_between_words_only() -> None:
    assert units("안녕하세요 세계") == ("안녕하세요", " 세계")
