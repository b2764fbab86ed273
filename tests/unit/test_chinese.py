# ruff: noqa: RUF001 - Chinese punctuation is meant
"""Chinese text is converted between the forms of Taiwan, Hong Kong and the mainland."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitled.core.transcription import Word
from subtitled.cues.phrases import MediaPhrase, spelling
from subtitled.output.chinese import convert


def phrase(*words: str) -> MediaPhrase:
    spoken = tuple(Word(word, 100 * at, 100 * at + 90, 0.9) for at, word in enumerate(words))
    return MediaPhrase("".join(words).strip(), 0, 100 * len(words), spoken)


@pytest.mark.parametrize(
    ("variant", "text"),
    [
        ("tw", "滑鼠裡面的軟體，乾杯！皇后在後面。"),
        ("hk", "鼠標裏面的軟件，乾杯！皇后在後面。"),
        ("cn", "鼠标里面的软件，干杯！皇后在后面。"),
        ("off", "鼠标里面的软件，干杯！皇后在后面。"),
    ],
)
def test_regional_words_are_converted(variant: str, text: str) -> None:
    """干 is 乾, 幹 or 干; 后 is 后 or 後; a mouse has another name in Taiwan."""
    [found] = convert([MediaPhrase("鼠标里面的软件，干杯！皇后在后面。", 0, 1000)], variant)
    assert (found.text, found.start_ms, found.end_ms) == (text, 0, 1000)


def test_taiwanese_text_is_converted_to_mainland_forms() -> None:
    [found] = convert([MediaPhrase("滑鼠裡面的軟體和記憶體", 0, 1000)], "cn")
    assert found.text == "鼠标里面的软件和内存"


@pytest.mark.parametrize("variant", ["tw", "hk", "cn"])
def test_text_in_the_target_form_is_unchanged(variant: str) -> None:
    once = convert([phrase("软件", "发现", "头发"), MediaPhrase("Hello, 世界!", 1, 2)], variant)
    assert convert(once, variant) == once


def test_converted_words_keep_their_times_and_spell_their_phrase() -> None:
    """内存 has two characters, 記憶體 three."""
    before = phrase("这个", "软件", "的", "内存", "。")
    [after] = convert([before], "tw")
    assert [word.text for word in after.words] == ["這個", "軟體", "的", "記憶體", "。"]
    assert [(word.start_ms, word.end_ms) for word in after.words] == [
        (word.start_ms, word.end_ms) for word in before.words
    ]


@given(
    st.lists(st.text(alphabet="内存软件鼠标里后 发，aの", max_size=4), max_size=6),
    st.sampled_from(["tw", "hk", "cn"]),
)
def test_converted_words_always_spell_their_phrase(words: list[str], variant: str) -> None:
    [after] = convert([phrase(*words)], variant)
    assert spelling(after.words) == "".join(after.text.split())
    assert len(after.words) == len(words)
