"""A transcript in another language has its own cues, and in JSON the source and the maker of each sentence."""

from __future__ import annotations

import msgspec
import pytest

from subtitled.core.actions import StoredTranslation
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.render import read_json, render
from subtitled.cues.transcript import SegmentTranscript, Transcript
from subtitled.http.player import CuesResponse, cues_json
from subtitled.translation.document import NOT_TRANSLATED, with_translation
from subtitled.translation.sentences import sentences_of


def transcript(language: str, *texts: str) -> Transcript:
    phrases = tuple(MediaPhrase(text, at * 3000, at * 3000 + 2000) for at, text in enumerate(texts))
    segment = SegmentTranscript(
        index=0, pieces=(), spans=(), device="cpu0", language=language, phrases=phrases
    )
    return Transcript(
        source="talk.mp4",
        duration_ms=60_000,
        language=language,
        task="transcribe",
        model="demo",
        segments=(segment,),
    )


def stored(text: str, problem: str = "") -> StoredTranslation:
    return StoredTranslation(
        target="zh-TW",
        key="k",
        source="",
        text=text,
        problem=problem,
        model="nllb",
        engine="ctranslate2",
        version="nllb-200-600M 1",
        warning="" if problem else "check it",
    )


def test_json_has_source_translation_engine_and_version_and_lists_what_is_untranslated() -> None:
    source = transcript("en", "Good evening.", "[Music]", "I was here.", "42!")
    made = with_translation(
        source,
        sentences_of(source),
        {0: stored("晚安。"), 2: stored("", "the model returned no translation")},
        "zh-TW",
    )
    found = read_json(render("json", made)).translation
    assert found is not None
    assert (found.target, found.untranslated) == ("zh-TW", 2)
    first, mark, failed, number = found.sentences
    assert (first.source, first.text, first.engine, first.version) == (
        "Good evening.",
        "晚安。",
        "ctranslate2",
        "nllb-200-600M 1",
    )
    assert (first.start_ms, first.end_ms, first.warning) == (0, 2000, "check it")
    assert (mark.text, mark.problem) == ("[Music]", NOT_TRANSLATED)
    assert (failed.text, failed.problem) == ("I was here.", "the model returned no translation")
    assert (number.text, number.problem, number.engine) == ("42!", "", "")


def test_the_files_contain_translations_and_originals_where_there_are_none() -> None:
    source = transcript("en", "Good evening.", "I was here.")
    made = with_translation(source, sentences_of(source), {0: stored("晚安。")}, "zh-TW")
    assert render("txt", made).decode() == "晚安。\nI was here.\n"
    assert b'xml:lang="zh-TW"' in render("ttml", made)
    assert made.output_language == "zh-TW"
    both = with_translation(source, sentences_of(source), {0: stored("晚安。")}, "zh-TW", is_bilingual=True)
    assert [cue.lines for cue in both.cues] == [("晚安。", "Good evening."), ("I was here.",)]


def test_a_player_gets_the_cues_of_a_translation_without_uncertain_words() -> None:
    source = transcript("en", "Good evening.", "I was here.")
    made = with_translation(source, sentences_of(source), {0: stored("晚安。")}, "zh-TW")
    shown = msgspec.json.decode(cues_json(render("json", made), 0), type=CuesResponse)
    assert shown.language == "zh-TW"
    assert [(cue.lines, cue.confidence) for cue in shown.cues] == [
        (("晚安。",), 1.0),
        (("I was here.",), 1.0),
    ]
    assert ["".join(word.text for word in cue.words) for cue in shown.cues] == ["晚安。", "I was here."]


def test_chinese_in_other_characters_needs_no_model() -> None:
    pytest.importorskip("opencc")
    source = transcript("zh", "学校开门了。")
    made = with_translation(source, sentences_of(source), {}, "zh-TW")
    assert [cue.lines for cue in made.cues] == [("學校開門了。",)]
    assert made.translation is not None
    assert made.translation.untranslated == 0
