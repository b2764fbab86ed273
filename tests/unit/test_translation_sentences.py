# ruff: noqa: RUF001 - full-width punctuation is meant
"""Sentences are put together from the phrases of a transcript, or from the cues of a subtitle file."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from subtitle.messages import EditedCue
from subtitled.core.translation import Sentence
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.transcript import Interval, SegmentTranscript, Transcript
from subtitled.translation.sentences import MAX_COLUMNS, is_translatable, sentences_of, sentences_of_cues


def of_phrases(*phrases: tuple[str, int, int], language: str = "en") -> list[str]:
    segment = SegmentTranscript(
        index=0,
        pieces=(),
        spans=(),
        device="cpu0",
        language=language,
        phrases=tuple(MediaPhrase(*phrase) for phrase in phrases),
    )
    return [sentence.text for sentence in sentences_of(transcript(segment, language=language))]


def transcript(*segments: SegmentTranscript, language: str = "en") -> Transcript:
    return Transcript(
        source="talk.wav",
        duration_ms=100_000,
        language=language,
        task="transcribe",
        model="demo",
        segments=segments,
    )


def of_cues(*cues: tuple[str, int, int], language: str | None = "en") -> tuple[Sentence, ...]:
    return sentences_of_cues(
        [EditedCue(start_ms=start, end_ms=end, lines=tuple(text.split("\n"))) for text, start, end in cues],
        language,
    )


def test_a_sentence_is_put_together_from_several_phrases() -> None:
    assert of_phrases(("I have seen", 0, 1000), ("the whole film.", 1000, 2000), ("Twice.", 2100, 2600)) == [
        "I have seen the whole film.",
        "Twice.",
    ]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Dr. Smith met Mr. J. Doe at 3.5 p.m. today. He left.", 2),
        ("en", "Wait... what? No!", 2),
        ("en", '"Go!" he said. "Now."', 3),
        ("de", "Am 3. Mai kam er. Das war z.B. gut.", 2),
        ("zh", "你好。你去哪里？我回家！", 3),
        ("ja", "こんにちは。どこへ行きますか？", 2),
        ("hi", "मैं घर जा रहा हूँ। तुम कहाँ हो?", 2),
        ("am", "ሰላም። እንዴት ነህ።", 2),
    ],
)
def test_a_sentence_ends_at_the_marks_of_its_language(language: str, text: str, expected: int) -> None:
    assert len(of_phrases((text, 0, 5000), language=language)) == expected


def test_a_long_pause_ends_a_sentence_and_a_short_one_does_not() -> None:
    assert of_phrases(("He went", 0, 1000), ("home", 2500, 3000), ("yesterday", 5500, 6000)) == [
        "He went home",
        "yesterday",
    ]


def test_text_without_punctuation_is_divided_at_its_pauses() -> None:
    phrases = [
        (f"我们今天要去看第{number}个地方", number * 3000, number * 3000 + 2000) for number in range(40)
    ]
    assert len(of_phrases(*phrases, language="zh")) == 40


def test_a_sentence_without_an_end_is_cut_at_its_breaks() -> None:
    words = " ".join(f"word{number}," if number % 7 == 6 else f"word{number}" for number in range(200))
    found = of_phrases((words, 0, 60_000))
    assert " ".join(found) == words
    assert all(len(text) <= MAX_COLUMNS for text in found)
    assert all(text.endswith(",") for text in found[:-1])


def test_a_dash_begins_the_sentence_of_another_speaker() -> None:
    found = of_cues(("- Are you coming\n- No, I'm", 0, 2000), ("staying.\n- Good - very good.", 2000, 4000))
    assert [(one.text, one.is_speaker_change) for one in found] == [
        ("Are you coming", True),
        ("No, I'm staying.", True),
        ("Good - very good.", True),
    ]
    assert [one.index for one in found] == [0, 1, 2]


def test_a_dash_before_a_digit_is_a_minus() -> None:
    found = of_cues(("-5 degrees tonight.", 0, 2000), ("- 5 people came.", 3000, 5000))
    assert [(one.text, one.is_speaker_change) for one in found] == [
        ("-5 degrees tonight.", False),
        ("5 people came.", True),
    ]


def test_marks_of_music_and_noise_are_sentences_whose_brackets_are_kept_apart() -> None:
    found = of_cues(
        ("[glass breaks]\nWho is", 0, 2000),
        ("there?", 2000, 3000),
        ("♪ La la la ♪", 4000, 6000),
        ("♪", 7000, 8000),
    )
    assert [(one.prefix, one.text, one.suffix) for one in found] == [
        ("[", "glass breaks", "]"),
        ("", "Who is there?", ""),
        ("♪ ", "La la la", " ♪"),
        ("", "♪", ""),
    ]


def test_tags_of_subtitle_files_are_left_out() -> None:
    (found,) = of_cues((r"{\an8}<i>I was</i>" + "\n<font color='red'>here.</font>", 0, 2000))
    assert found.text == "I was here."


def test_the_runs_of_speech_in_a_sentence_are_known() -> None:
    (found,) = of_cues(("I think", 0, 1000), ("he left.", 2000, 3000))
    assert found.spoken == ((0, 1000), (2000, 3000))
    assert (found.start_ms, found.end_ms) == (0, 3000)


def test_channels_and_languages_do_not_share_a_sentence() -> None:
    def segment(index: int, text: str, start: int, language: str, channel: str) -> SegmentTranscript:
        return SegmentTranscript(
            index=index,
            pieces=(),
            spans=(),
            device="cpu0",
            language=language,
            channel=channel,
            phrases=(MediaPhrase(text, start, start + 900),),
        )

    found = sentences_of(
        transcript(
            segment(0, "I was", 0, "en", "left"),
            segment(1, "und ich", 1000, "de", "left"),
            segment(2, "here", 500, "en", "right"),
        )
    )
    assert [(one.text, one.language, one.channel) for one in found] == [
        ("I was", "en", "left"),
        ("here", "en", "right"),
        ("und ich", "de", "left"),
    ]


def test_a_sentence_begins_with_its_sound() -> None:
    segment = SegmentTranscript(
        index=0,
        pieces=(),
        spans=(Interval(900, 3000),),
        device="cpu0",
        language="en",
        phrases=(MediaPhrase("He went home.", 500, 4000),),
    )
    (found,) = sentences_of(transcript(segment))
    assert (found.start_ms, found.end_ms) == (900, 3000)
    assert sentences_of(transcript(replace(segment, phrases=()))) == ()


@pytest.mark.parametrize(
    ("text", "expected"), [("♪ ♪", False), ("1, 2, 3...", False), ("A 1", True), ("好", True)]
)
def test_a_text_without_letters_needs_no_translation(text: str, expected: bool) -> None:
    assert is_translatable(text) is expected
