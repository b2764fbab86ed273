# ruff: noqa: RUF001 - other scripts are meant
"""An answer of a translation model is used only if it can be the translation."""

from __future__ import annotations

import pytest

from subtitled.core.translation import SentenceTranslation, TranslationRequest
from subtitled.translation.checks import NOT_ANSWERED, checked


def check(
    source: str, text: str | None, languages: str, glossary: tuple[tuple[str, str], ...] = ()
) -> SentenceTranslation:
    before, after = languages.split(">")
    request = TranslationRequest(source=before, target=after, sentences=(source,), glossary=glossary)
    (result,) = checked(request, [text])
    return result


@pytest.mark.parametrize(
    ("languages", "source", "text"),
    [
        ("en>zh-TW", "I bought an iPhone 15 in Berlin.", "我在柏林買了一支 iPhone 15。"),
        ("en>ja", "OK.", "OK。"),
        ("en>ja", "NASA called.", "NASA から電話がありました。"),
        ("en>ja", "Tokyo University", "東京大学"),
        ("en>ko", "He is 35 years old.", "그는 35살이다."),
        ("en>de", "Berlin, Hotel Adlon.", "Berlin, Hotel Adlon."),
        ("en>de", "It cost 2,500 dollars.", "Es kostete 2.500 Dollar."),
        ("en>zh", "It cost 2,500,000 dollars.", "花了250万美元。"),
        ("zh>en", "花了250万。", "It cost 2.5 million."),
        ("en>zh", "There were 35 people.", "有三十五个人。"),
        ("en>fr", "I have 3 dogs.", "J'ai trois chiens."),
        ("en>ar", "In 1990 he left.", "في عام ١٩٩٠ غادر."),
        ("en>hi", "I am going home now.", "मैं अब घर जा रहा हूँ।"),
        ("en>sr", "I am going home now.", "Sada idem kući."),
        ("zh>en", "好。", "All right then."),
        ("en>xx-unknown", "Hello there.", "Bla bla bla."),
        ("de>nl", "Das ist in der Stadt.", "Dat is in de stad."),
        ("en>de", "Minus 5 degrees.", "-5 Grad."),
    ],
)
def test_a_translation_is_used(languages: str, source: str, text: str) -> None:
    assert check(source, text, languages) == SentenceTranslation(text=text)


@pytest.mark.parametrize(
    ("languages", "source", "text", "problem"),
    [
        ("en>ja", "Hello there.", None, NOT_ANSWERED),
        ("en>ja", "Hello there.", "  ", "empty"),
        ("en>zh", "Hello there.", "Hello, how are you?", "script of zh"),
        (
            "en>ja",
            "I am going home now, and I will not come back.",
            "我现在要回家了，而且我再也不会回来了。",
            "script of ja",
        ),
        ("en>ko", "I am going home now.", "我现在要回家了。", "script of ko"),
        ("en>zh", "I am going home now.", "今から家に帰ります。", "script of zh"),
        ("en>ru", "I am going home now.", "Je rentre à la maison.", "script of ru"),
        ("en>de", "I am going home now.", "I am going home now.", "repeated the sentence"),
        ("ja>zh", "東京大学学生募集中止。", "東京大学学生募集中止。", "repeated the sentence"),
        (
            "en>de",
            "He said that it was in the house.",
            "He says that it is in a house.",
            "in en instead of de",
        ),
        ("en>de", "Yes.", "Ja, " * 30, "columns wide"),
        (
            "en>de",
            "This is a very long sentence about nothing at all, which continues and continues without an end.",
            "Ja.",
            "only",
        ),
    ],
)
def test_what_is_no_translation_is_shown_in_the_original(
    languages: str, source: str, text: str | None, problem: str
) -> None:
    result = check(source, text, languages)
    assert result.text == source
    assert problem in result.problem


def test_a_translation_that_lacks_a_number_or_a_term_is_used_with_a_warning() -> None:
    result = check(
        "Ada counted 1,842 stars in 1999.",
        "Eda zählte 1.842 Sterne.",
        "en>de",
        (("Ada", "Ada"), ("Bob", "Bob")),
    )
    assert (result.text, result.problem) == ("Eda zählte 1.842 Sterne.", "")
    assert result.warning == 'the translation lacks the number 1999, "Ada" for "Ada"'


def test_an_inflected_term_is_found() -> None:
    glossary = (("New Haven", "Нью-Хейвен"), ("Lovelace", "Lovelace"))
    assert not check("Lovelace lives here.", "Hier ist Lovelaces Haus.", "en>de", glossary).warning


def test_chinese_is_written_in_the_characters_of_the_target() -> None:
    pytest.importorskip("opencc")
    result = check("The school opens.", "学校开门了,好吗?", "en>zh-TW")
    assert result == SentenceTranslation(text="學校開門了，好嗎？")


def test_an_answer_becomes_one_line_without_a_dash_of_its_own() -> None:
    assert check("I go home.", "- Ich gehe\n\tnach Hause.\x07", "en>de").text == "Ich gehe nach Hause."
