# ruff: noqa: RUF001 - Chinese punctuation is meant
"""Translated sentences are laid out again, by the target language's rules, within the time of their sentences."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from subtitled.config.layout_limits import limits_for
from subtitled.core.translation import Sentence, SentenceTranslation
from subtitled.cues.layout import Cue
from subtitled.cues.text_width import columns
from subtitled.translation.layout import TranslatedSentence, bilingual_cues, translated_cues


def translated(
    text: str,
    start_ms: int,
    end_ms: int,
    *,
    source: str = "It is a truth universally acknowledged.",
    language: str = "zh-TW",
    problem: str = "",
    spoken: tuple[tuple[int, int], ...] = (),
    is_speaker_change: bool = False,
    prefix: str = "",
    suffix: str = "",
    channel: str = "",
) -> TranslatedSentence:
    sentence = Sentence(
        index=0,
        text=source,
        language="en",
        start_ms=start_ms,
        end_ms=end_ms,
        spoken=spoken,
        is_speaker_change=is_speaker_change,
        prefix=prefix,
        suffix=suffix,
        channel=channel,
    )
    return TranslatedSentence(
        sentence=sentence,
        translation=SentenceTranslation(text=source if problem else text, problem=problem),
        language="en" if problem else language,
    )


def text_of(cues: tuple[Cue, ...]) -> str:
    return "".join("".join("".join(cue.lines).split()) for cue in cues)


def test_a_long_translation_is_broken_by_the_rules_of_its_language() -> None:
    (one,) = [translated("我從來沒有見過這麼美麗的房子，而且我也不認識住在裡面的那個人。", 1000, 8000)]
    found = translated_cues([one])
    assert text_of(found) == one.text
    assert found[0].start_ms == 1000
    assert all(columns(line) <= 32 for cue in found for line in cue.lines)
    assert found[0].lines[0].endswith("，")


def test_short_sentences_share_a_cue_and_each_is_shown_when_it_is_spoken() -> None:
    found = translated_cues(
        [translated("好。", 0, 400), translated("走吧。", 500, 900), translated("再見！", 5000, 5600)]
    )
    assert [(cue.start_ms, cue.lines) for cue in found] == [(0, ("好。走吧。",)), (5000, ("再見！",))]


def test_the_text_of_a_sentence_pauses_with_its_speech() -> None:
    spoken = ((0, 2000), (6000, 8000))
    found = translated_cues([translated("當我回到家的時候，房子已經空了。", 0, 8000, spoken=spoken)])
    assert [(cue.start_ms, "".join(cue.lines)) for cue in found] == [
        (0, "當我回到家的時候，"),
        (6000, "房子已經空了。"),
    ]
    assert found[0].end_ms < 6000


def test_each_speaker_has_a_line_also_without_punctuation() -> None:
    (cue,) = translated_cues(
        [
            translated("你要來嗎", 0, 900, is_speaker_change=True),
            translated("不來", 1000, 1900, is_speaker_change=True),
        ]
    )
    assert cue.lines == ("- 你要來嗎", "- 不來")


def test_marks_are_around_the_translation() -> None:
    (cue,) = translated_cues([translated("掌聲", 0, 2000, prefix="[", suffix="]")])
    assert cue.lines == ("[掌聲]",)


def test_an_untranslated_sentence_is_laid_out_by_its_own_language() -> None:
    source = "I have never seen such a beautiful house in all my life."
    (cue,) = translated_cues([translated("", 0, 4000, source=source, problem="429")])
    assert cue.lines == ("I have never seen", "such a beautiful house in all my life.")


def test_channels_are_laid_out_separately() -> None:
    found = translated_cues(
        [translated("左邊。", 0, 2000, channel="left"), translated("右邊。", 500, 2500, channel="right")]
    )
    assert [(cue.start_ms, cue.channel) for cue in found] == [(0, "left"), (500, "right")]


def test_no_cue_ends_after_the_media() -> None:
    assert translated_cues([translated("好。", 9700, 9900)], until_ms=10_000)[0].end_ms == 10_000


def test_a_cue_in_two_languages_has_a_line_of_each() -> None:
    found = bilingual_cues(
        [translated("這是一條舉世公認的真理。", 0, 3000), translated("好。", 4000, 6000, source="Yes.")]
    )
    assert [cue.lines for cue in found] == [
        ("這是一條舉世公認的真理。", "It is a truth universally acknowledged."),
        ("好。", "Yes."),
    ]


def test_a_long_sentence_is_divided_in_both_languages_at_once() -> None:
    source = "It is a truth universally acknowledged, that a man must be in want of a wife."
    found = bilingual_cues(
        [translated("這是一條舉世公認的真理，單身的男人都想要一位妻子。", 0, 6000, source=source)]
    )
    assert [cue.lines for cue in found] == [
        ("這是一條舉世公認的真理，", "It is a truth universally acknowledged,"),
        ("單身的男人都想要一位妻子。", "that a man must be in want of a wife."),
    ]
    assert all(columns(cue.lines[0]) <= 32 and columns(cue.lines[1]) <= 42 for cue in found)


def test_an_untranslated_sentence_is_shown_once_in_a_file_of_two_languages() -> None:
    (cue,) = bilingual_cues([translated("", 0, 3000, source="Yes.", problem="no answer")])
    assert cue.lines == ("Yes.",)


def test_sentences_too_short_to_read_share_a_cue_in_two_languages() -> None:
    found = bilingual_cues(
        [translated("好。", 0, 200, source="Yes."), translated("走吧。", 250, 1500, source="Let's go.")]
    )
    assert [cue.lines for cue in found] == [("好。 走吧。", "Yes. Let's go.")]


_CHARS = st.text(alphabet="我你他的房子很美，。！ab ", min_size=1, max_size=80).filter(
    lambda text: text.strip()
)


@st.composite
def _sentences(draw: st.DrawFn) -> list[TranslatedSentence]:
    at = 0
    found = []
    for text in draw(st.lists(_CHARS, min_size=1, max_size=12)):
        start = at + draw(st.integers(0, 3000))
        runs = []
        at = start
        for length, pause in draw(
            st.lists(st.tuples(st.integers(1, 5000), st.integers(300, 4000)), min_size=1, max_size=3)
        ):
            runs.append((at, at + length))
            at += length + pause
        at = runs[-1][1]
        found.append(
            translated(
                text,
                start,
                at,
                source=draw(_CHARS),
                spoken=tuple(runs) if len(runs) > 1 else (),
                is_speaker_change=draw(st.booleans()),
                problem=draw(st.sampled_from(["", "", "", "failed"])),
            )
        )
    return found


@settings(max_examples=60, deadline=None)
@given(_sentences())
def test_no_cue_shows_a_sentence_before_it_is_spoken_and_none_loses_text(
    sentences: list[TranslatedSentence],
) -> None:
    found = translated_cues(sentences)
    assert text_of(found) == "".join("".join(one.text.split()) for one in sentences)
    assert all(one.end_ms <= two.start_ms for one, two in pairwise(found))
    assert all(cue.start_ms < cue.end_ms for cue in found)
    ends, total = [], 0
    for one in sentences:
        total += len("".join(one.text.split()))
        ends.append(total)
    at = 0
    for cue in found:
        first = next(one for one, end in zip(sentences, ends, strict=True) if at < end)
        assert cue.start_ms >= first.sentence.start_ms
        at += len(text_of((cue,)))
        limits = limits_for(first.language)
        assert len(cue.lines) <= limits.max_lines
        assert all(columns(line) <= 42 for line in cue.lines)


@settings(max_examples=40, deadline=None)
@given(_sentences())
def test_cues_in_two_languages_contain_both_texts_in_order(sentences: list[TranslatedSentence]) -> None:
    found = bilingual_cues(sentences)
    assert all(one.end_ms <= two.start_ms for one, two in pairwise(found))
    assert all(1 <= len(cue.lines) <= 2 for cue in found)
    shown = "".join(cue.lines[0] for cue in found).replace(" ", "")
    expected = "".join(one.text for one in sentences).replace(" ", "")
    if all(len(cue.lines) == 2 for cue in found):
        assert shown == expected
    else:  # a translation with fewer words than its sentence has lines: the last cue has the original alone
        rest = iter(shown)
        assert all(char in rest for char in expected)
