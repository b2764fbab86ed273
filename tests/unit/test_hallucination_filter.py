# ruff: noqa: RUF001 - Chinese punctuation is meant
"""Hallucinations are removed with a reason; certain text is always kept."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitled.config.checks import LANGUAGES
from subtitled.core.transcription import Word
from subtitled.cues.hallucination_filter import HallucinationRules, comparable, remove_hallucinations
from subtitled.cues.phrases import MediaPhrase, spelling
from subtitled.cues.transcript import Interval, SegmentTranscript
from subtitled.output.layout_process import _phrase_lists, hallucination_rules

if TYPE_CHECKING:
    from subtitled.cues.transcript import RemovedPhrase

SPEECH = Interval(1000, 9000)
"""The speech in each segment of ten seconds."""


def segment(*phrases: MediaPhrase, index: int = 0, language: str = "en") -> SegmentTranscript:
    return SegmentTranscript(
        index=index,
        pieces=(Interval(0, 10_000),),
        spans=(SPEECH,),
        device="cpu0",
        language=language,
        phrases=phrases,
    )


def phrase(
    text: str, start_ms: int = 2000, end_ms: int = 4000, *, logprob: float = -0.2, **more: float
) -> MediaPhrase:
    return MediaPhrase(text, start_ms, end_ms, (), logprob, 1.2, more.get("no_speech_prob", 0.05), 0.0)


def rules(language: str | None, *, marks: bool = True, stock: bool = True) -> HallucinationRules:
    return hallucination_rules(language, are_stock_phrases_removed=stock, are_marks_kept=marks)


def left(
    *phrases: MediaPhrase, language: str = "en", marks: bool = True, stock: bool = True
) -> tuple[list[str], tuple[RemovedPhrase, ...]]:
    segments, removals = remove_hallucinations(
        [segment(*phrases, language=language)], lambda code: rules(code, marks=marks, stock=stock)
    )
    return [kept.text for found in segments for kept in found.phrases], removals


UNSURE = -0.8
OUTROS = {
    "en": "Thanks for watching!",
    "zh": "請不吝點贊 訂閱 轉發 打賞支持明鏡與點點欄目",
    "ja": "ご視聴ありがとうございました。",
    "ko": "시청해 주셔서 감사합니다.",
    "de": "Untertitelung des ZDF, 2019",
    "fr": "Sous-titres réalisés para la communauté d'Amara.org",
    "es": "¡Gracias por ver el video!",
    "ru": "Субтитры сделал DimaTorzok",
}


@pytest.mark.parametrize(("language", "text"), OUTROS.items())
def test_stock_phrase_with_low_confidence_is_removed(language: str, text: str) -> None:
    kept, [removal] = left(phrase("One."), phrase(text, 5000, 6000, logprob=UNSURE), language=language)
    assert kept == ["One."]
    assert (removal.text, removal.start_ms, removal.end_ms) == (text, 5000, 6000)
    assert "stock phrase, at low confidence (mean log-probability -0.80)" in removal.cause
    assert removal.avg_logprob == UNSURE


@pytest.mark.parametrize(("language", "text"), OUTROS.items())
def test_spoken_stock_phrase_is_kept(language: str, text: str) -> None:
    """A speaker who really thanks for watching has a high probability, over VAD speech."""
    assert left(phrase(text), language=language) == ([text], ())


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        (phrase("Thanks for watching!", 9100, 9900), "none was detected there"),
        (phrase("Thanks for watching!", 9900, 9900), "none was detected there"),
        (phrase("Thanks for watching!", no_speech_prob=0.7), "no-speech probability 0.70"),
    ],
)
def test_stock_phrase_over_no_speech_is_removed(found: MediaPhrase, cause: str) -> None:
    kept, [removal] = left(found)
    assert kept == []
    assert "over no speech" in removal.cause
    assert cause in removal.cause


@pytest.mark.parametrize(
    ("found", "is_kept"),
    [
        pytest.param(phrase("Well.", 9600, 9900, logprob=UNSURE, no_speech_prob=1.0), False, id="in silence"),
        pytest.param(phrase("Well.", 9250, 9900, logprob=UNSURE, no_speech_prob=1.0), True, id="near speech"),
        pytest.param(phrase("Well.", 9600, 9900, no_speech_prob=1.0), True, id="certain"),
        pytest.param(phrase("Well.", 9600, 9900, logprob=UNSURE, no_speech_prob=0.4), True, id="over sound"),
    ],
)
def test_uncertain_text_in_silence_is_removed(found: MediaPhrase, is_kept: bool) -> None:
    kept, removals = left(found)
    assert (kept == ["Well."]) is is_kept
    if not is_kept:
        assert removals[0].cause.startswith("text where there is no speech, at low confidence")
    assert left(found, stock=False)[0] == ["Well."]


def test_word_probabilities_take_precedence_over_those_of_the_window() -> None:
    """The log-probability covers all phrases of a window."""

    def spoken(probability: float, logprob: float) -> MediaPhrase:
        words = tuple(Word(f" {w}", 2000, 2500, probability) for w in ("Thanks", "for", "watching!"))
        return MediaPhrase("Thanks for watching!", 2000, 4000, words, logprob, 1.2, 0.05, 0.0)

    assert left(spoken(0.9, UNSURE))[0] == ["Thanks for watching!"]
    assert left(spoken(0.3, -0.1))[0] == []


@pytest.mark.parametrize(
    "text",
    [
        "And thanks for watching the house.",
        "Thanks for watching, John.",
        "Thanks",
        "...",
        "Gracias por ver el video",
    ],
)
def test_only_whole_stock_phrases_of_the_language_are_removed(text: str) -> None:
    assert left(phrase(text, logprob=UNSURE)) == ([text], ())


def test_several_stock_phrases_in_one_phrase_are_removed() -> None:
    text = "THANKS FOR WATCHING. Please subscribe! Thanks for watching!"
    assert left(phrase(text, logprob=UNSURE))[0] == []


def test_nothing_is_removed_if_the_inbox_disables_it() -> None:
    loop = [phrase("Yes.", at, at + 100, logprob=UNSURE) for at in range(2000, 8000, 1000)]
    assert left(phrase("Thanks for watching!", logprob=UNSURE), *loop, stock=False)[1] == ()


# Loops


def test_repetitions_are_reduced_to_one() -> None:
    loop = [phrase("I'm sorry.", 1000 * at, 1000 * at + 900, logprob=UNSURE) for at in range(1, 8)]
    kept, removals = left(phrase("Well.", 0, 900), *loop)
    assert kept == ["Well.", "I'm sorry."]
    assert [removal.cause for removal in removals] == ["the same words repeated"] * 6


def test_loop_may_span_segments_and_several_phrases() -> None:
    texts = ["One.", "Two!", "Three"] * 5
    phrases = [phrase(text, 500 * at, 500 * at + 400, logprob=UNSURE) for at, text in enumerate(texts)]
    segments = [segment(*phrases[at : at + 4], index=at) for at in range(0, 15, 4)]
    kept, removals = remove_hallucinations(segments, rules)
    assert [one.text for found in kept for one in found.phrases] == ["One.", "Two!", "Three"]
    assert len(removals) == 12


def test_three_repetitions_are_no_loop() -> None:
    thrice = [phrase("No.", 1000 * at, 1000 * at + 900, logprob=UNSURE) for at in range(1, 4)]
    assert left(*thrice) == (["No."] * 3, ())


def test_chorus_with_high_confidence_is_kept() -> None:
    """Also where the window compresses well because of it."""
    chorus = [MediaPhrase("Go!", 1000 * at, 1000 * at + 900, (), -0.2, 3.0, 0.05, 0.0) for at in range(1, 8)]
    assert left(*chorus) == (["Go!"] * 7, ())


def test_loop_from_a_higher_temperature_is_cut() -> None:
    stuck = [MediaPhrase("Go!", 1000 * at, 1000 * at + 900, (), -0.2, 3.0, 0.05, 0.4) for at in range(1, 8)]
    assert left(*stuck)[0] == ["Go!"]


# Marks of music and noise


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("[Music]", []),
        ("(upbeat music)", []),
        ("♪♪", []),
        ("*Applause*", []),
        ("【音乐】", []),
        ("（輕快的音樂）", []),
        ("[Music] Hello. [Applause] Bye.", ["Hello. Bye."]),
        ("♪ Happy birthday to you ♪", ["Happy birthday to you"]),
        ("Music is good.", ["Music is good."]),
        (
            "(he sang of the music that he had heard)",
            ["(he sang of the music that he had heard)"],
        ),
        ("[Smith] said so.", ["[Smith] said so."]),
    ],
)
def test_marks_are_removed_only_if_the_inbox_disables_them(text: str, rest: list[str]) -> None:
    assert left(phrase(text)) == ([text], ())
    kept, removals = left(phrase(text), marks=False)
    assert kept == rest
    assert bool(removals) is (rest != [text])
    assert all("marks = false" in removal.cause for removal in removals)


def test_words_of_a_mark_are_removed_with_it() -> None:
    words = (Word(" [upbeat", 0, 1, 0.9), Word(" music]Hello,", 1, 2, 0.9), Word(" you.", 2, 3, 0.9))
    spoken = MediaPhrase("[upbeat music]Hello, you.", 2000, 4000, words)
    kept, _ = remove_hallucinations([segment(spoken)], lambda code: rules(code, marks=False))
    [found] = kept[0].phrases
    assert found.text == "Hello, you."
    assert [word.text for word in found.words] == [" Hello,", " you."]


# The list of phrases


def test_stock_phrases_are_listed_by_whisper_language() -> None:
    outros, marks = _phrase_lists()
    assert outros.keys() <= set(LANGUAGES)
    assert {"en", "zh", "ja", "ko", "de", "fr", "es"} <= outros.keys()
    assert "" not in marks.union(*outros.values())


def test_no_stock_phrase_is_a_common_word() -> None:
    """Short ones would remove spoken words with low confidence."""
    outros, _ = _phrase_lists()
    short = [text for texts in outros.values() for text in texts if len(text) < 4]
    assert short == []


# Any text

texts = st.text(alphabet="ab ♪[]()*", max_size=12) | st.sampled_from([*OUTROS.values(), "[Music]", "Yes."])
phrases = st.lists(
    st.builds(
        phrase,
        texts,
        st.integers(0, 9000),
        st.integers(0, 12_000),
        logprob=st.sampled_from([-0.1, -0.9]),
        no_speech_prob=st.sampled_from([0.0, 0.9]),
    ),
    max_size=12,
)


@given(st.lists(phrases, max_size=4), st.booleans())
def test_every_letter_is_kept_or_recorded(found: list[list[MediaPhrase]], marks: bool) -> None:
    segments = [segment(*part, index=at) for at, part in enumerate(found)]
    kept, removals = remove_hallucinations(segments, lambda code: rules(code, marks=marks))
    before = "".join(one.text for part in found for one in part)
    after = "".join(one.text for part in kept for one in part.phrases)
    removed_text = "".join(removal.text for removal in removals)
    assert sorted(re.findall(r"\w", before)) == sorted(re.findall(r"\w", after + removed_text))


@given(st.lists(phrases, max_size=4))
def test_certain_phrase_is_always_kept(found: list[list[MediaPhrase]]) -> None:
    segments = [segment(*part, index=at) for at, part in enumerate(found)]
    kept, _ = remove_hallucinations(segments, rules)
    sure = [
        one.text
        for part in found
        for one in part
        if one.avg_logprob > UNSURE
        and one.no_speech_prob < 0.5
        and min(one.end_ms, SPEECH.end_ms) - max(one.start_ms, SPEECH.start_ms)
        >= (one.end_ms - one.start_ms) / 2
        > 0
    ]
    rest = [one.text for part in kept for one in part.phrases]
    assert all(rest.count(text) >= sure.count(text) for text in sure)


@given(st.text(alphabet="ab 12Éß。!", max_size=20))
def test_comparable_text_is_stable(text: str) -> None:
    assert comparable(comparable(text).replace("#", "1")) == comparable(text)
    assert spelling([Word(text, 0, 1, 1.0)]) == "".join(text.split())
