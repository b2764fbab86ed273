# ruff: noqa: RUF001 - Chinese punctuation is meant
"""Chinese text is converted between the forms of Taiwan, Hong Kong and the mainland."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitled.core.transcription import Word
from subtitled.cues.chinese import convert, in_variant
from subtitled.cues.phrases import MediaPhrase, spelling
from subtitled.cues.transcript import SegmentTranscript, Transcript


def phrase(*words: str) -> MediaPhrase:
    spoken = tuple(Word(word, 100 * at, 100 * at + 90, 0.9) for at, word in enumerate(words))
    return MediaPhrase("".join(words).strip(), 0, 100 * len(words), spoken)


@pytest.mark.parametrize(
    ("variant", "text"),
    [
        ("tw", "鼠標裡面的軟件，乾杯！皇后在後面。"),
        ("tw+words", "滑鼠裡面的軟體，乾杯！皇后在後面。"),
        ("hk", "鼠標裏面的軟件，乾杯！皇后在後面。"),
        ("cn", "鼠标里面的软件，干杯！皇后在后面。"),
        ("off", "鼠标里面的软件，干杯！皇后在后面。"),
    ],
)
def test_characters_are_converted_and_words_if_requested(variant: str, text: str) -> None:
    """干 is 乾, 幹 or 干; 后 is 后 or 後; a mouse has another name in Taiwan."""
    [found] = convert([MediaPhrase("鼠标里面的软件，干杯！皇后在后面。", 0, 1000)], variant)
    assert (found.text, found.start_ms, found.end_ms) == (text, 0, 1000)


def test_taiwanese_text_is_converted_to_mainland_forms() -> None:
    [found] = convert([MediaPhrase("滑鼠裡面的軟體和記憶體", 0, 1000)], "cn+words")
    assert found.text == "鼠标里面的软件和内存"
    [found] = convert([MediaPhrase("滑鼠裡面的軟體和記憶體", 0, 1000)], "cn")
    assert found.text == "滑鼠里面的软体和记忆体"


@pytest.mark.parametrize("variant", ["tw", "tw+words", "hk", "cn", "cn+words"])
def test_text_in_the_target_form_is_unchanged(variant: str) -> None:
    once = convert([phrase("软件", "发现", "头发"), MediaPhrase("Hello, 世界!", 1, 2)], variant)
    assert convert(once, variant) == once


def test_converted_words_keep_their_times_and_spell_their_phrase() -> None:
    """内存 has two characters, 記憶體 three."""
    before = phrase("这个", "软件", "的", "内存", "。")
    [after] = convert([before], "tw+words")
    assert [word.text for word in after.words] == ["這個", "軟體", "的", "記憶體", "。"]
    assert [(word.start_ms, word.end_ms) for word in after.words] == [
        (word.start_ms, word.end_ms) for word in before.words
    ]


@given(
    st.lists(st.text(alphabet="内存软件鼠标里后 发，aの,.?(这個", max_size=4), max_size=6),
    st.sampled_from(["tw", "tw+words", "hk", "cn", "cn+words", "off"]),
)
def test_converted_words_always_spell_their_phrase(words: list[str], variant: str) -> None:
    [after] = convert([phrase(*words)], variant)
    assert spelling(after.words) == "".join(after.text.split())
    assert len(after.words) == len(words)


SENTENCES = [
    tuple(line.split())
    for line in Path(__file__).parents[1].joinpath("data", "chinese_tw.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
]


def test_sentences_are_many_and_of_all_pitfalls() -> None:
    assert len(SENTENCES) >= 250
    text = "".join(simplified for simplified, _ in SENTENCES)
    assert set("对文社项准发干面后里只系云松斗谷范余丑台复征制志表周冲卷采姜几") - set(text) == set()


@pytest.mark.parametrize(("simplified", "traditional"), SENTENCES)
def test_sentence_is_converted_exactly(simplified: str, traditional: str) -> None:
    """By characters alone: a word of the mainland stays a word of the mainland."""
    [found] = convert([MediaPhrase(simplified, 0, 1000)], "tw")
    assert found.text == traditional


@pytest.mark.parametrize("variant", ["tw", "tw+words", "hk"])
def test_traditional_text_is_unchanged(variant: str) -> None:
    """Also forms that are not Taiwan's standard, and characters that are simplified ones elsewhere."""
    for text in (
        *(traditional for _, traditional in SENTENCES),
        "台灣的裏面，皇后與后里，干戈與里長，范仲淹和余光中",
        "他在那只鍋裏煮麪",
    ):
        assert _file(text, "這是繁體字的檔案，說明後面的內容", variant=variant)[0] == text


def _file(*texts: str, variant: str, language: str = "zh") -> list[str]:
    phrases = tuple(MediaPhrase(text, at * 1000, at * 1000 + 900) for at, text in enumerate(texts))
    segment = SegmentTranscript(
        index=0, pieces=(), spans=(), device="cpu0", language=language, phrases=phrases
    )
    before = Transcript(
        source="a", duration_ms=9000, task="transcribe", model="demo", language=language, segments=(segment,)
    )
    after = in_variant(before, variant)
    return [found.text for found in after.segments[0].phrases]


def test_file_in_both_scripts_becomes_one_script() -> None:
    """Whisper changes the script from window to window."""
    texts = ("这是第一句话", "後面是繁體字", "他在后面", "这个個体")
    assert _file(*texts, variant="tw") == ["這是第一句話", "後面是繁體字", "他在後面", "這個個體"]
    assert _file(*texts, variant="cn") == ["这是第一句话", "后面是繁体字", "他在后面", "这个个体"]


def test_phrase_of_common_characters_follows_the_script_of_its_file() -> None:
    assert _file("皇后在里面", "说话的时候", variant="tw")[0] == "皇后在裡面"
    assert _file("里長和范先生", "說話的時候", "這裡", variant="tw")[0] == "里長和范先生"


@pytest.mark.parametrize("variant", ["off", "cn"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("你好, 我是小明.", "你好，我是小明。"),
        ("真的吗?不会吧!", "真的吗？不会吧！"),
        ("我有3.5元, 10:30见", "我有3.5元，10:30见"),
        ("我用iPhone, 你呢?", "我用iPhone，你呢？"),
        ("他说:(笑)好", "他说：（笑）好"),
        ("我想... 再说", "我想... 再说"),
        ("Hello, world.", "Hello, world."),
        ("U.S. 和中国", "U.S. 和中国"),
    ],
)
def test_punctuation_between_chinese_characters_is_full_width(before: str, after: str, variant: str) -> None:
    assert _file(before, variant=variant) == [after]


def test_other_languages_keep_their_punctuation() -> None:
    assert _file("日本, 国.", variant="tw", language="ja") == ["日本, 国."]
