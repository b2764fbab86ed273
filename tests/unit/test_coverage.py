"""Speech that no text covers is found; phrases start and end with the speech in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitled.asr.coverage import (
    SLACK_S,
    TAIL_S,
    TimeRange,
    UncoveredSpeech,
    is_near_speech,
    loud_frames,
    moved_to_speech,
    snapped_to_sound,
    trimmed_to_words,
    uncovered_speech,
)


def stretches(*edges: tuple[float, float]) -> list[TimeRange]:
    return [TimeRange(*edge) for edge in edges]


def test_speech_after_the_last_phrase_is_found() -> None:
    """A window whose text ends early: 15 s of it have no text."""
    speech = stretches((0.4, 5), (6, 12), (14, 20), (22, 29))
    [run] = uncovered_speech(speech, stretches((0, 12.2)), min_s=1.0)
    assert (run.start_s, run.end_s) == (14, 29)
    assert run.speech_s == pytest.approx(13)


def test_speech_between_two_phrases_is_found_apart() -> None:
    speech = stretches((0, 30))
    found = uncovered_speech(speech, stretches((0, 5), (10, 12), (20, 30)), min_s=1.0)
    assert [(run.start_s, run.end_s) for run in found] == [
        (5 + SLACK_S, 10 - SLACK_S),
        (12 + SLACK_S, 20 - SLACK_S),
    ]


def test_what_is_shorter_than_asked_for_is_left_alone() -> None:
    speech = stretches((0, 5), (5.5, 6.2))
    assert uncovered_speech(speech, stretches((0, 5)), min_s=1.0) == []
    assert len(uncovered_speech(speech, stretches((0, 5)), min_s=0.5)) == 1


def test_without_text_all_speech_is_uncovered() -> None:
    assert uncovered_speech(stretches((1, 2), (3, 5)), [], min_s=1.0) == [UncoveredSpeech(1, 5, 3)]


def test_without_speech_nothing_is_uncovered() -> None:
    assert uncovered_speech([], stretches((1, 2)), min_s=0) == []


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 50)), max_size=8),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 90)), max_size=8),
)
def test_speech_is_covered_or_found(spans: list[tuple[int, int]], texts: list[tuple[int, int]]) -> None:
    speech: list[TimeRange] = []
    at = 0
    for pause, length in spans:
        at += pause % 40 + 1
        speech.append(TimeRange(at / 10, (at + length) / 10))
        at += length
    covered = [TimeRange(start / 10, (start + length) / 10) for start, length in texts]
    found = uncovered_speech(speech, covered, min_s=0)
    for span in speech:
        middle = (span.start_s + span.end_s) / 2
        has_text = any(text.start_s - SLACK_S <= middle <= text.end_s + SLACK_S for text in covered)
        assert has_text or any(run.start_s <= middle <= run.end_s for run in found)


SPOKEN = ((0.3, 2.0), (9.5, 11.0), (12.0, 14.0))


@pytest.mark.parametrize(
    ("texts", "places"),
    [
        pytest.param(((0.3, 1.2), (8.0, 8.4), (9.5, 14.0)), (1.5, 1.9), id="seven seconds after its speech"),
        pytest.param(((0.3, 2.0), (3.0, 4.0), (12.0, 14.0)), (9.5, 10.5), id="before its speech"),
        pytest.param(((0.3, 1.2), (5.0, 8.9), (9.5, 14.0)), (1.5, 2.0), id="longer than its speech"),
        pytest.param(((0.3, 2.0), (5.0, 6.0), (9.5, 14.0)), (5.0, 6.0), id="all speech has text"),
        pytest.param(((9.5, 11.0), (15.0, 16.0)), (12.0, 13.0), id="the nearest speech"),
        pytest.param(((12.0, 14.0), (25.0, 26.0)), (25.0, 26.0), id="no speech is near"),
        pytest.param(((0.3, 2.2), (11.2, 11.6), (12.0, 14.0)), (11.2, 11.6), id="just after speech"),
    ],
)
def test_text_in_a_pause_is_moved_onto_speech_without_text(
    texts: tuple[tuple[float, float], ...], places: tuple[float, float]
) -> None:
    found = moved_to_speech(stretches(*texts), stretches(*SPOKEN))
    [place] = [
        one for one, text in zip(found, texts, strict=True) if text not in SPOKEN and one.start_s == places[0]
    ]
    assert (place.start_s, place.end_s) == pytest.approx(places)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 50)), max_size=8),
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 60)), max_size=8),
)
def test_moved_texts_keep_their_order(spans: list[tuple[int, int]], texts: list[tuple[int, int]]) -> None:
    speech: list[TimeRange] = []
    at = 0
    for pause, length in spans:
        at += pause + 1
        speech.append(TimeRange(at / 10, (at + length) / 10))
        at += length
    before = sorted(
        (TimeRange(start / 10, (start + length) / 10) for start, length in texts), key=lambda one: one.start_s
    )
    after = moved_to_speech(before, speech)
    assert [one.start_s for one in after] == sorted(one.start_s for one in after)
    for old, new in zip(before, after, strict=True):
        assert new.end_s - new.start_s <= old.end_s - old.start_s + 1e-9
        assert new == old or (is_near_speech(new, speech) and not is_near_speech(old, speech))


@pytest.mark.parametrize(
    ("phrase", "edges"),
    [
        pytest.param(
            (0.0, 3.0), (0.4, 2.5), id="the model starts it with the window and ends it with the next one"
        ),
        pytest.param((0.6, 1.8), (0.6, 1.8), id="inside the speech"),
        pytest.param((2.4, 5.0), (4.0, 5.0), id="in the pause before its speech"),
        pytest.param((1.95, 5.0), (4.0, 5.0), id="its first 50 ms are the end of other speech"),
        pytest.param((2.5, 3.5), (2.5, 3.5), id="where no speech is"),
    ],
)
def test_a_phrase_gets_the_edges_of_its_speech(
    phrase: tuple[float, float], edges: tuple[float, float]
) -> None:
    assert snapped_to_sound(*phrase, stretches((0.4, 2.0), (4.0, 6.0)), np.zeros(700, bool)) == pytest.approx(
        edges
    )


def test_sound_that_the_vad_finds_late_belongs_to_the_phrase() -> None:
    is_loud = np.zeros(700, bool)
    is_loud[15:210] = is_loud[390:620] = True
    speech = stretches((0.4, 2.0), (4.0, 6.0))
    assert snapped_to_sound(0.0, 3.0, speech, is_loud) == pytest.approx((0.15, 2.6))
    assert snapped_to_sound(3.0, 6.6, speech, is_loud) == pytest.approx((3.9, 6.6))


@pytest.mark.parametrize(
    ("words", "edges"),
    [
        pytest.param((8.9, 14.0), (7.7, 15.4), id="six seconds of another language before its first word"),
        pytest.param((0.5, 2.4), (0.0, 2.5), id="eleven seconds after its last word"),
        pytest.param((0.4, 14.0), (0.0, 15.4), id="all its speech is between its words"),
        pytest.param((3.0, 14.0), (3.1, 15.4), id="the first word in a pause"),
        pytest.param((7.3, 7.4), (0.0, 15.4), id="no speech is between its words"),
    ],
)
def test_phrase_does_not_cover_speech_outside_its_words(
    words: tuple[float, float], edges: tuple[float, float]
) -> None:
    speech = stretches((0.4, 2.5), (3.1, 7.2), (7.7, 14.2))
    assert trimmed_to_words(TimeRange(0.0, 15.4), TimeRange(*words), speech) == pytest.approx(edges)


def test_inexact_alignment_leaves_a_phrase_as_it_is() -> None:
    """A first word of half a second that is aligned after the pause behind it."""
    speech = stretches((0.4, 0.9), (2.0, 7.0))
    assert trimmed_to_words(TimeRange(0.4, 7.0), TimeRange(2.0, 6.8), speech) == (0.4, 7.0)


def test_sound_of_the_speech_around_a_phrase_does_not_belong_to_it() -> None:
    """A phrase whose last 0.1 s are the next word: its end is in the pause before that word, which stays uncovered."""
    is_loud = np.zeros(700, bool)
    is_loud[35:230] = is_loud[390:620] = True
    speech = stretches((0.4, 2.0), (4.0, 6.0))
    start, end = snapped_to_sound(0.4, 4.1, speech, is_loud)
    assert (start, end) == pytest.approx((0.4, 2.3 + TAIL_S))
    [run] = uncovered_speech(speech, stretches((start, end)), min_s=0.5)
    assert run.start_s == 4.0
    # No more so where the pause is not silent.
    is_loud[35:330] = True
    assert snapped_to_sound(0.4, 4.1, speech, is_loud)[1] == pytest.approx(3.8)
    is_loud[35:] = True
    assert snapped_to_sound(0.4, 4.08, speech, is_loud)[1] <= 4.0
    # The same at its start: the end of the word before.
    is_loud[231:390] = False
    assert snapped_to_sound(1.95, 6.0, speech, is_loud) == pytest.approx((3.9, 6.0))


def test_sound_is_what_is_at_most_20_db_below_the_speech() -> None:
    features = np.full((80, 300), 0.5, np.float32)
    features[:, 50:100] = 1.5
    features[:, 100:120] = 1.1
    features[:, 120:130] = 0.9
    loud = loud_frames(features, stretches((0.5, 1.0)))
    assert list(np.nonzero(loud)[0]) == list(range(50, 120))
    assert not loud_frames(features, []).any()
