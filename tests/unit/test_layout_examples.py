"""Examples of line breaks, each checked by a person."""

# ruff: noqa: ISC004, RUF001, SIM905 - long texts on several lines; full-width punctuation is meant
from __future__ import annotations

import pytest

from subtitled.config.layout_limits import limits_for
from subtitled.core.transcription import Word
from subtitled.cues.layout import layout
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.text_width import columns


def lines_of(text: str, language: str) -> str:
    """Return the layout of a slowly spoken text: lines separated by " / ", cues by " | "."""
    phrase = MediaPhrase(text, 0, columns(text) * 75)
    cues = layout([phrase], limits_for(language), language=language)
    return " | ".join(" / ".join(cue.lines) for cue in cues)


@pytest.mark.parametrize(
    "expected",
    [
        "It is a truth universally acknowledged, | that a single man in possession / of a good fortune, | must be in want of a wife.",
        "However little known the feelings or views | of such a man may be on his first entering / a neighbourhood, | "
        "this truth is so well fixed in the minds / of the surrounding families, | that he is considered | "
        "as the rightful property of some one / or other of their daughters.",
        "Yesterday Dr. Martin Luther King spoke / to about 250 000 people in Washington D.C. | "
        "and said that the $ 3.5 million programme / would not be enough. I can't believe it!",
        "We drove 42 kilometres in 35 minutes, | and then the car broke down / near the Golden Gate Bridge.",
        "The quick brown fox, which had been living / near the Tower of London since 1066, | "
        "jumped over 3 000 lazy dogs; / nobody at the New York Times noticed.",  # prose: allow
        "so what we are going / to look at today is the way | in which a neural network learns / to map from an input to an output | "
        "and why the choice | "
        "of the loss function matters much / more than people usually think",
    ],
)
def test_english(expected: str) -> None:
    assert lines_of(text_of(expected), "en") == expected


def text_of(expected: str, space: str = " ") -> str:
    return expected.replace(" / ", space).replace(" | ", space)


@pytest.mark.parametrize(
    "expected",
    [
        "Die Donaudampfschifffahrtsgesellschaft / hat am 3. Mai beschlossen, | dass die / Kraftfahrzeughaftpflichtversicherung | "
        "für alle Angestellten übernommen wird.",
        "Wissen Sie, Herr Doktor Müller, | ich habe die Unterlagen für die / Geschwindigkeitsbegrenzungsverordnung | "
        "schon am Donnerstagnachmittag / bei der Straßenverkehrsbehörde abgegeben, | aber dort wusste niemand etwas davon.",
    ],
)
def test_german(expected: str) -> None:
    assert lines_of(text_of(expected), "de") == expected


def test_word_wider_than_a_line_is_split_before_a_syllable() -> None:
    text = "Das Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz wurde 2013 aufgehoben."
    assert lines_of(text, "de") == (
        "Das Rindfleischetikettierungsüberwa / chungsaufgabenübertragungsgesetz wurde | 2013 aufgehoben."
    )


@pytest.mark.parametrize(
    "expected",
    [
        "今天天气很好， / 我们打算去公园散步， | 然后在湖边的咖啡馆里坐一会儿。 | 因为她昨天晚上加班到十二点， / 所以早上没有起得来。 | "
        "这台机器每秒钟可以 / 处理一百二十个请求， | GPU的利用率达到97%。",
        "大家好歡迎收看今天的節目 | 我們要介紹的是台北市 / 最有名的夜市裡面的各種小吃",
    ],
)
def test_chinese(expected: str) -> None:
    assert lines_of(text_of(expected, ""), "zh") == expected


def test_chinese_with_spaces_in_place_of_commas() -> None:
    text = "我觉得这个问题 其实没有那么复杂 只要我们把每一个步骤 都写清楚 然后交给下一个人 他就能继续做下去"
    assert lines_of(text, "zh") == (
        "我觉得这个问题 其实没有那么复杂 / 只要我们把每一个步骤 都写清楚 | 然后交给下一个人 / 他就能继续做下去"
    )


@pytest.mark.parametrize(
    "expected",
    [
        "昨日の会議でお話しした通り、 | 来月から新しいシステムに / 切り替えることになりました。 | "
        "それでも私は、 / コンピューターのGPUを3台使って、 | 約120メートルの距離を / 測りたいと思っています。",
        "「そうですね」と彼女は言った。 | 「でも、東京スカイツリーの高さは / 634メートルですよ。」",
        "すみません、ちょっと / お聞きしたいんですけど、 | この近くにコンビニエンスストアは / ありますか？",
    ],
)
def test_japanese(expected: str) -> None:
    assert lines_of(text_of(expected, ""), "ja") == expected


@pytest.mark.parametrize(
    "expected",
    [
        "오늘 날씨가 아주 좋아서 우리는 / 공원에 산책하러 가기로 했습니다. | 그런데 갑자기 비가 / 내리기 시작했고, | "
        "우산을 가져온 사람은 / 아무도 없었습니다.",
        "저는 어제 친구들과 함께 / 서울역 근처에 있는 식당에서 | 저녁을 먹었는데 / 음식이 정말 맛있었습니다.",
    ],
)
def test_korean(expected: str) -> None:
    assert lines_of(text_of(expected), "ko") == expected


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        (
            "fr",
            "Nous sommes allés à la plage hier soir, / mais il n'y avait personne. | Est-ce que tu crois / qu'ils reviendront demain ?",
        ),
        (
            "es",
            "Ayer fuimos a la playa con mis primos, | pero el agua estaba tan fría / que nadie quiso bañarse.",
        ),
        (
            "ru",
            "Вчера мы долго ждали автобус / на остановке возле старого театра, | "
            "но он так и не пришёл, / потому что дорогу закрыли.",
        ),
    ],
)
def test_other_languages(language: str, expected: str) -> None:
    assert lines_of(text_of(expected), language) == expected


def test_each_speaker_has_a_line() -> None:
    text = "- Are you coming with us tonight? - No, I have to work until ten."
    assert lines_of(text, "en") == "- Are you coming with us tonight? / - No, I have to work until ten."


def test_no_line_begins_or_ends_with_the_wrong_punctuation() -> None:
    """JIS X 4051, and the W3C's requirements for Chinese and Japanese text layout."""
    text = "（一二三）「四五六七」《八九十》、一二三四。五六七八九！「十一」二三四五六七ー八九？「」。"
    for phrase in ("一" * at + text for at in range(16)):
        for cue in layout([MediaPhrase(phrase, 0, 20_000)], limits_for("zh"), language="zh"):
            for line in cue.lines:
                assert line[0] not in "）」》、。！？ー"
                assert line[-1] not in "（「《"


def test_latin_word_or_number_in_chinese_stays_whole() -> None:
    for before in range(14):
        text = "中" * before + "使用CTranslate2库处理12345.67个"
        cues = layout([MediaPhrase(text, 0, 20_000)], limits_for("zh"), language="zh")
        lines = [line for cue in cues for line in cue.lines]
        assert any("CTranslate2" in line for line in lines), lines
        assert any("12345.67" in line for line in lines), lines


def test_no_timed_word_of_the_model_is_split() -> None:
    """BudouX alone splits it into 语音助 and 手到."""
    tokens = "人 工 智能 技术 正在 改变 我们 的生活 方式 从 手机 上 的 语音 助手 到 自动 驾 驶 汽车 都 离 不开 它".split()
    words = tuple(Word(token, at * 400, at * 400 + 400, 1.0) for at, token in enumerate(tokens))
    phrase = MediaPhrase("".join(tokens), 0, words[-1].end_ms, words)
    lines = [line for cue in layout([phrase], limits_for("zh"), language="zh") for line in cue.lines]
    assert "".join(lines) == phrase.text
    assert any("助手" in line for line in lines)
