"""Cues keep their limits for all phrases."""

# ruff: noqa: RUF001, SIM905 - full-width punctuation is meant, and lists of words are easier to read as text
from __future__ import annotations

from cProfile import Profile
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from subtitle.messages import LayoutOptions
from subtitled.config.layout_limits import LayoutLimits, limits_for
from subtitled.core.transcription import Word
from subtitled.cues.layout import Cue, fast_cues, layout
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.text import clean
from subtitled.cues.text_width import columns, columns_per_char

if TYPE_CHECKING:
    from collections.abc import Callable

SLOW = LayoutLimits(max_chars_per_s=0, min_ms=0, gap_ms=0, chain_ms=0)
"""Limits on lines only."""


def squeezed(text: str) -> str:
    return "".join(text.split())


def spoken(text: str, start_ms: int, per_word_ms: int = 300) -> MediaPhrase:
    """Return a phrase whose words follow each other without a pause."""
    words = tuple(
        Word(f" {word}", start_ms + at * per_word_ms, start_ms + (at + 1) * per_word_ms, 1.0)
        for at, word in enumerate(text.split())
    )
    return MediaPhrase(text, start_ms, words[-1].end_ms, words)


def test_short_phrase_is_one_line() -> None:
    assert layout([MediaPhrase("  Hello,\n world ", 10, 900)]) == (Cue(10, 900, ("Hello, world",)),)


def test_no_phrases_give_no_cues() -> None:
    assert layout([]) == ()


def test_blank_phrase_gives_no_cue() -> None:
    assert layout([MediaPhrase(" \t\x00", 0, 1000)]) == ()


def test_very_long_phrase_is_split_into_several_cues_that_share_its_time() -> None:
    cues = layout([MediaPhrase(" ".join(["characters"] * 12), 0, 12_000)])
    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [(0, 5917), (6000, 12_000)]


def test_time_is_shared_by_the_width_of_characters() -> None:
    phrase = MediaPhrase("aaaa 中文", 0, 800)
    cues = layout([phrase], replace(SLOW, max_chars=4, max_lines=1))
    assert cues == (Cue(0, 400, ("aaaa",)), Cue(400, 800, ("中文",)))


def test_cues_start_and_end_with_their_words() -> None:
    starts_ms = {" first": (0, 100, 200, 300), " then": (5400, 5500, 5600, 5700)}
    words = tuple(Word(text, at, at + 50, 1.0) for text, starts in starts_ms.items() for at in starts)
    phrase = MediaPhrase("".join(word.text for word in words), 0, 9000, words)
    assert layout([phrase], replace(SLOW, max_lines=1, max_chars=23)) == (
        Cue(0, 350, ("first first first first",)),
        Cue(5400, 5750, ("then then then then",)),
    )


def test_times_of_words_out_of_order_are_put_in_order() -> None:
    words = (Word("one", 900, 1000, 1.0), Word(" two", 100, 300, 1.0), Word(" three", 1500, 1400, 1.0))
    (cue,) = layout([MediaPhrase("one two three", 0, 2000, words)], replace(SLOW, min_ms=833))
    assert cue == Cue(0, 2000, ("one two three",))
    cues = layout([MediaPhrase("one two three", 0, 2000, words)], replace(SLOW, max_lines=1, max_chars=5))
    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [(0, 1000), (1000, 1000 + 1), (1500, 2000)]


def test_word_times_apply_inside_a_phrase_but_not_at_its_edges() -> None:
    """An alignment may add the silence before a phrase to its first word, or end its last word early."""
    words = (Word("one", 700, 900, 1.0), Word(" two", 900, 1200, 1.0))
    cues = layout([MediaPhrase("one two", 500, 2000, words)], replace(SLOW, max_lines=1, max_chars=4))
    assert cues == (Cue(500, 900, ("one",)), Cue(900, 2000, ("two",)))


def test_words_that_do_not_spell_the_phrase_are_not_used() -> None:
    phrase = MediaPhrase("aaaa bbbb", 0, 1000, (Word("aaaa", 0, 10, 1.0),))
    assert layout([phrase], replace(SLOW, max_lines=1, max_chars=4)) == (
        Cue(0, 500, ("aaaa",)),
        Cue(500, 1000, ("bbbb",)),
    )


def test_word_wider_than_a_line_is_split_evenly() -> None:
    (cue,) = layout([MediaPhrase("b" * 60, 0, 4000)])
    assert cue.lines == ("b" * 30, "b" * 30)


def test_long_word_is_split_at_its_hyphen() -> None:
    (cue,) = layout([MediaPhrase("Kraftfahrzeug-Haftpflichtversicherungsbeitrag", 0, 4000)])
    assert cue.lines == ("Kraftfahrzeug-", "Haftpflichtversicherungsbeitrag")


def test_cue_ends_two_frames_before_the_next() -> None:
    one, two = layout(
        [spoken("This was the first of two sentences.", 0), spoken("This is the second one.", 2100)]
    )
    assert (one.end_ms, two.start_ms) == (2017, 2100)


def test_cue_near_the_next_extends_to_it() -> None:
    one, two = layout(
        [spoken("This was the first of two sentences.", 0), spoken("This is the second one.", 2500)]
    )
    assert (one.end_ms, two.start_ms) == (2417, 2500)


def test_cue_far_from_the_next_ends_with_its_words() -> None:
    one, _ = layout(
        [spoken("This was the first of two sentences.", 0), spoken("This is the second one.", 4000)]
    )
    assert one.end_ms == 2100


def test_short_cue_extends_into_the_silence_after_it() -> None:
    assert layout([MediaPhrase("Yes.", 0, 200), MediaPhrase("No.", 5000, 5100)]) == (
        Cue(0, 833, ("Yes.",)),
        Cue(5000, 5833, ("No.",)),
    )


def test_fast_cue_extends_until_it_can_be_read() -> None:
    (cue,) = layout([MediaPhrase("a" * 40, 0, 1000)])
    assert cue == Cue(0, 2000, ("a" * 40,))


def test_fast_cue_without_silence_after_it_is_counted() -> None:
    text = "This sentence has in all forty-two letters."[:42]
    phrases = [MediaPhrase(text, 0, 1000), MediaPhrase(text, 1000, 2000), MediaPhrase("Yes.", 2000, 4000)]
    cues = layout(phrases)
    assert squeezed("".join(line for cue in cues for line in cue.lines)) == squeezed(text * 2 + "Yes.")
    assert 1 <= fast_cues(cues, LayoutLimits(), "en") <= 2


def test_slow_cues_are_not_counted_as_fast() -> None:
    assert fast_cues([Cue(0, 1000, ("a" * 10, "b" * 10))], LayoutLimits(), "en") == 0
    assert fast_cues([Cue(0, 1000, ("a" * 10, "b" * 11))], LayoutLimits(), "en") == 1
    assert fast_cues([Cue(0, 1000, ("中" * 9,))], limits_for("zh"), "zh") == 0
    assert fast_cues([Cue(0, 1000, ("中" * 10,))], limits_for("zh"), "zh") == 1
    assert fast_cues([Cue(0, 1, ("a" * 10,))], limits_for("en", LayoutOptions(profile="raw")), "en") == 0


def test_no_cue_is_longer_than_max_ms() -> None:
    (cue,) = layout([MediaPhrase("Aaaah!", 0, 60_000)])
    assert cue == Cue(0, 7000, ("Aaaah!",))


def test_no_cue_ends_after_the_media() -> None:
    (cue,) = layout([MediaPhrase("Yes.", 9800, 9900)], until_ms=10_000)
    assert cue.end_ms == 10_000


def test_phrases_too_short_alone_share_a_cue() -> None:
    phrases = [
        MediaPhrase("Yes.", 0, 250),
        MediaPhrase("I know.", 300, 650),
        MediaPhrase("But why?", 700, 1500),
    ]
    assert layout(phrases) == (Cue(0, 1500, ("Yes. I know. But why?",)),)


def test_no_cue_crosses_a_silence_long_enough_for_a_cue() -> None:
    phrases = [MediaPhrase("He went", 0, 200), MediaPhrase("home.", 1500, 2500)]
    assert [cue.lines for cue in layout(phrases)] == [("He went",), ("home.",)]


def test_short_silence_does_not_divide_a_clause() -> None:
    phrases = [MediaPhrase("He went", 0, 900), MediaPhrase("home.", 1900, 2900)]
    assert layout(phrases) == (Cue(0, 2900, ("He went home.",)),)


@pytest.mark.parametrize("count", [8, 9, 15])
def test_a_phrase_across_a_removed_gap_is_laid_out_as_one(count: int) -> None:
    text = (
        "Some of us went over to the old harbour in the morning and then waited for the boat that would take "
        "us to the island"
    )
    whole = spoken(text, 0)
    first = MediaPhrase(
        " ".join(text.split()[:count]), 0, count * 300, whole.words[:count], is_continued=True
    )
    rest = MediaPhrase(" ".join(text.split()[count:]), count * 300, whole.end_ms, whole.words[count:])
    assert layout([first, rest], language="en") == layout([whole], language="en")


def test_silence_that_the_vad_found_divides_phrases_that_reach_into_it() -> None:
    phrases = [MediaPhrase("He went", 0, 1400), MediaPhrase("home.", 1400, 2900)]
    assert [cue.lines for cue in layout(phrases)] == [("He went home.",)]
    assert layout(phrases, speech=[(100, 700), (2000, 2900)]) == (
        Cue(100, 933, ("He went",)),
        Cue(2000, 2900, ("home.",)),
    )


def test_cue_starts_with_the_sound() -> None:
    """The model often begins a phrase in the silence before it."""
    phrase = MediaPhrase("It is late.", 1000, 3000)
    (cue,) = layout([phrase], speech=[(200, 800), (1180, 2800)])
    assert cue.start_ms == 1180
    (cue,) = layout([phrase], speech=[(200, 800), (3100, 4000)])
    assert cue.start_ms == 1000, "no sound is known there"


def test_raw_cues_keep_the_times_of_the_model() -> None:
    (cue,) = layout(
        [MediaPhrase("Late.", 1000, 3000)],
        limits_for("en", LayoutOptions(profile="raw")),
        speech=[(1180, 2800)],
    )
    assert (cue.start_ms, cue.end_ms) == (1000, 3000)


def test_overlapping_phrases_are_trimmed() -> None:
    phrases = [MediaPhrase("One sentence.", 0, 3000), MediaPhrase("Another sentence.", 2000, 4000)]
    assert layout(phrases) == (Cue(0, 1917, ("One sentence.",)), Cue(2000, 4000, ("Another sentence.",)))


def test_simultaneous_phrases_share_a_cue() -> None:
    assert layout([MediaPhrase("one", 0, 3000), MediaPhrase("two", 0, 4000)]) == (Cue(0, 4000, ("one two",)),)


def test_phrase_without_duration_gets_a_readable_cue() -> None:
    assert layout([MediaPhrase("one", 0, 3000), MediaPhrase("two", 9000, 9000)]) == (
        Cue(0, 3000, ("one",)),
        Cue(9000, 9833, ("two",)),
    )


def test_chinese_phrases_without_punctuation_are_joined_by_a_space() -> None:
    limits = limits_for("zh")
    (cue,) = layout([MediaPhrase("好的", 0, 300), MediaPhrase("我来", 300, 900)], limits, language="zh")
    assert cue.lines == ("好的 我来",)
    (cue,) = layout([MediaPhrase("好的，", 0, 300), MediaPhrase("我来", 300, 900)], limits, language="zh")
    assert cue.lines == ("好的，我来",)


def test_raw_profile_keeps_each_phrase_as_a_cue() -> None:
    text = "word " * 40
    phrases = [MediaPhrase(text, 0, 100), MediaPhrase("Yes.", 100, 150), MediaPhrase("No.", 150, 40_000)]
    assert layout(phrases, limits_for("en", LayoutOptions(profile="raw"))) == (
        Cue(0, 100, (text.strip(),)),
        Cue(100, 150, ("Yes.",)),
        Cue(150, 40_000, ("No.",)),
    )


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("مرحبا بكم في هذا البرنامج الجديد عن تاريخ المدينة القديمة وسكانها", "ar"),
        ("שלום לכולם וברוכים הבאים לתוכנית החדשה על ההיסטוריה של העיר העתיקה", "he"),
        ("नमस्ते और इस नए कार्यक्रम में आपका स्वागत है जो पुराने शहर के इतिहास के बारे में है", "hi"),
        ("Xin chào và chào mừng các bạn đến với chương trình mới về lịch sử thành phố", "vi"),
    ],
)
def test_words_of_other_scripts_stay_whole(text: str, language: str) -> None:
    cues = layout([MediaPhrase(text, 0, 6000)], limits_for(language), language=language)
    assert [word for cue in cues for line in cue.lines for word in line.split()] == text.split()


SAMPLES = (
    *"the Dr. King said that 42 km - – — ist über Haftpflichtversicherung 今天天气很好， 因为 GPU的 昨日の 会議で".split(),
    *"コンピューター 。 ได้ไปเที่ยว 오늘 날씨가 مرحبا क्षत्रिय ? « » ( ) ... x".split(),
)
TEXTS = (
    st.text(max_size=200)
    | st.text(alphabet="abc ,.。今天안\u0301\u200d👍🏽🇩🇪—-「」ー\n", max_size=200)
    | st.lists(st.sampled_from(SAMPLES), max_size=60).map(" ".join)
    | st.lists(st.sampled_from(SAMPLES), max_size=60).map("".join)
)
LANGUAGES = st.sampled_from(["en", "de", "fr", "zh", "ja", "ko", "th", "ar", "yue", None])


@st.composite
def placed(draw: st.DrawFn) -> MediaPhrase:
    """Draw a phrase: without words, with those between its spaces, or with tokens of some characters."""
    text = draw(TEXTS)
    start_ms = draw(st.integers(0, 20_000))
    length = draw(st.integers(0, 4))
    parts = (
        [text[at : at + length] for at in range(0, len(text), length)]
        if length
        else [f" {word}" for word in text.split()]
    )
    words = tuple(
        Word(part, draw(st.integers(0, 20_000)), draw(st.integers(0, 20_000)), 0.5) for part in parts[:80]
    )
    has_words = len(parts) <= 80 and draw(st.booleans())
    return MediaPhrase(text, start_ms, start_ms + draw(st.integers(-500, 10_000)), words if has_words else ())


LIMITS = st.builds(
    LayoutLimits,
    max_chars=st.integers(2, 50),
    max_lines=st.integers(1, 4),
    max_chars_per_s=st.sampled_from([0, 4, 9, 17.5, 20]),
    min_ms=st.sampled_from([0, 833, 2000]),
    max_ms=st.sampled_from([0, 2000, 7000]),
    gap_ms=st.sampled_from([0, 83, 200]),
    chain_ms=st.sampled_from([0, 500]),
)


@given(
    st.lists(placed(), max_size=6),
    LIMITS,
    LANGUAGES,
    st.lists(st.integers(0, 30_000), max_size=6, unique=True).map(
        lambda times: list(pairwise(sorted(times)))[::2]
    ),
)
def test_cues_keep_the_limits_and_all_words(
    phrases: list[MediaPhrase], limits: LayoutLimits, language: str | None, speech: list[tuple[int, int]]
) -> None:
    cues = layout(phrases, limits, language=language, speech=speech)
    line_columns = limits.max_chars * columns_per_char(language)
    for cue in cues:
        assert type(cue.start_ms) is type(cue.end_ms) is int
        assert 0 <= cue.start_ms < cue.end_ms
        assert not limits.max_ms or cue.end_ms - cue.start_ms <= limits.max_ms
        assert 1 <= len(cue.lines) <= limits.max_lines
        assert all(line.strip() == line != "" and len(line.splitlines()) == 1 for line in cue.lines)
        assert all(columns(line) <= line_columns for line in cue.lines)
    assert all(one.end_ms + limits.gap_ms <= two.start_ms for one, two in pairwise(cues))
    said = "".join(clean(phrase.text) for phrase in sorted(phrases, key=lambda phrase: phrase.start_ms))
    assert squeezed("".join(line for cue in cues for line in cue.lines)) == squeezed(said)
    assert layout(phrases, limits, language=language, speech=speech) == cues


@given(st.lists(placed(), max_size=6), LANGUAGES)
def test_raw_cues_are_in_order(phrases: list[MediaPhrase], language: str | None) -> None:
    cues = layout(phrases, limits_for(language, LayoutOptions(profile="raw")), language=language)
    assert all(one.end_ms <= two.start_ms for one, two in pairwise(cues))
    assert [cue.lines for cue in cues] == [
        (text,) for phrase in sorted(phrases, key=lambda one: one.start_ms) if (text := clean(phrase.text))
    ]


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), min_size=2, max_size=8), st.data())
def test_no_cue_has_words_from_both_sides_of_a_long_silence(
    times: list[tuple[int, int]], data: st.DataObject
) -> None:
    phrases: list[MediaPhrase] = []
    at_ms = 0
    divided = data.draw(st.integers(1, len(times) - 1))
    for number, (pause_ms, length_ms) in enumerate(times):
        start_ms = at_ms + pause_ms + (1 if number != divided else 1500)
        at_ms = start_ms + length_ms
        phrases.append(MediaPhrase(chr(ord("a") + number) * 5, start_ms, at_ms))
    before = set("".join(phrase.text for phrase in phrases[:divided]))
    for cue in layout(phrases):
        letters = set(squeezed("".join(cue.lines)))
        assert letters <= before or not letters & before


def test_requested_limits_apply() -> None:
    limits = limits_for("en", LayoutOptions(max_chars=20, max_lines=1))
    cues = layout([MediaPhrase("It is a truth universally acknowledged, that a single man", 0, 6000)], limits)
    assert [cue.lines for cue in cues] == [
        ("It is a truth",),
        ("universally",),
        ("acknowledged,",),
        ("that a single man",),
    ]


def calls(run: Callable[[], object]) -> int:
    """Return the number of function calls of `run`: a measure of its time that is the same on each machine."""
    profile = Profile()
    profile.runcall(run)
    return sum(entry.callcount for entry in profile.getstats())


LONG_TEXTS = {
    "words": "the quick brown fox jumps over a lazy dog ",
    "sentences": "It is late. We have to go, but he stays. ",
    "chinese": "我们今天去看电影然后回家吃饭",
    "one word": "abcdefgh",
    "brackets": ")",
    "dashes": "- ",
    "stops": ". ",
    "marks": "\u0301",
    "joiners": "👩\u200d",
    "thai": "กขค",
}


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
@pytest.mark.parametrize(
    "limits",
    [LayoutLimits(), LayoutLimits(max_chars=200, max_lines=4, max_ms=60_000)],
    ids=["default", "wide"],
)
def test_cost_of_layout_grows_linearly_with_the_text(text: str, limits: LayoutLimits) -> None:
    """Also for text that is no speech: all of it within the 30 s of one segment."""

    def cost(chars: int) -> int:
        phrase = MediaPhrase((text * chars)[:chars], 0, 30_000)
        return calls(lambda: layout([phrase], limits, language="zh"))

    cost(100)  # caches
    assert cost(2_000) < 2.6 * cost(1_000) + 20_000
    assert cost(21_000) < 700_000


def test_very_long_phrase_keeps_its_text_and_its_limits() -> None:
    text = "word " * 8_000 + "我们今天去看电影" * 4_000 + "x" * 50_000
    cues = layout([MediaPhrase(text, 0, 30_000)], LayoutLimits())
    assert squeezed("".join("".join(cue.lines) for cue in cues)) == squeezed(text)
    assert max(columns(line) for cue in cues for line in cue.lines) <= LayoutLimits().max_chars
    assert max(len(cue.lines) for cue in cues) <= LayoutLimits().max_lines
