"""Sentences are translated in batches with context, and with the terms of the glossary that occur in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from subtitled.core.translation import Sentence
from subtitled.translation.glossary import Glossary, GlossaryError, contains
from subtitled.translation.requests import (
    CONTEXT_SENTENCES,
    MAX_CHARS,
    MAX_SENTENCES,
    plan_requests,
    sentence_keys,
    sentence_terms,
)


def sentences(*texts: str, gap_ms: int = 0, language: str = "") -> tuple[Sentence, ...]:
    return tuple(
        Sentence(
            index=index,
            text=text,
            language=language,
            start_ms=index * (1000 + gap_ms),
            end_ms=index * (1000 + gap_ms) + 1000,
        )
        for index, text in enumerate(texts)
    )


def test_each_sentence_is_in_one_request_with_the_sentences_around_it_as_context() -> None:
    texts = [f"Sentence {number} says so." for number in range(40)]
    plan = plan_requests(sentences(*texts), "ja", language="en")
    assert [text for one in plan for text in one.request.sentences] == texts
    assert [index for one in plan for index in one.indices] == list(range(40))
    second = plan[1].request
    assert second.before == tuple(texts[MAX_SENTENCES - CONTEXT_SENTENCES : MAX_SENTENCES])
    assert second.after == tuple(texts[2 * MAX_SENTENCES : 2 * MAX_SENTENCES + CONTEXT_SENTENCES])
    assert (plan[0].request.before, plan[-1].request.after) == ((), ())


def test_a_request_is_limited_in_its_text() -> None:
    plan = plan_requests(sentences(*["word " * 150] * 8), "ja", language="en")
    assert [len(one.indices) for one in plan] == [2, 2, 2, 2]
    assert all(sum(map(len, one.request.sentences)) <= MAX_CHARS for one in plan)
    assert len(plan_requests(sentences("x" * 5000), "ja", language="en")) == 1


def test_only_what_is_in_another_language_and_has_letters_is_translated() -> None:
    source = (*sentences("Hello.", "♪", "42!"), *sentences("Guten Tag.", language="de"))
    source = tuple(replace(one, index=index) for index, one in enumerate(source))
    assert [one.indices for one in plan_requests(source, "de", language="en")] == [(0,)]
    by_language = plan_requests(source, "ja", language="en")
    assert [(one.indices, one.request.source) for one in by_language] == [((0,), "en"), ((3,), "de")]
    assert [one.indices for one in plan_requests(source, "ja", language="en", known={0})] == [(3,)]


def test_a_changed_sentence_changes_its_own_key_alone() -> None:
    before = sentence_keys(sentences("Yes.", "I go.", "Yes."), "ja")
    after = sentence_keys(sentences("Yes.", "I went.", "Yes."), "ja")
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, False, True]
    assert len({*before, *sentence_keys(sentences("Yes."), "de")}) == 4
    terms = sentence_terms(sentences("Yes.", "I go.", "Yes."), [("go", "iku"), ("no", "iie")])
    assert terms == ("", "go = iku", "")


def test_a_request_has_the_terms_of_the_glossary_that_occur_in_it() -> None:
    terms = (("Ada", "愛達"), ("Ada Lovelace", "愛達·勒芙蕾絲"), ("Turing", "圖靈"))
    (one,) = plan_requests(sentences("I met ada  lovelace's son."), "zh-TW", language="en", glossary=terms)
    assert one.request.glossary == (("Ada Lovelace", "愛達·勒芙蕾絲"), ("Ada", "愛達"))


@pytest.mark.parametrize(
    ("text", "term", "expected"),
    [
        ("The cart is here.", "art", False),
        ("The ART is here.", "art", True),
        ("An art's way", "art", True),
        ("我在台北車站", "台北", True),
        ("김민수가 왔다", "김민수", True),
        ("C++ is old", "C++", True),
    ],
)
def test_a_term_is_a_whole_word_where_words_have_spaces(text: str, term: str, expected: bool) -> None:
    assert contains(text, term) is expected


def test_a_table_of_a_language_comes_before_the_common_terms() -> None:
    glossary = Glossary(
        'Ada = "Ada"\n[zh]\nAda = "爱达"\nBob = "鲍勃"\n["zh-TW"]\nAda = "愛達"\n[ja]\nAda = "エイダ"'
    )
    assert dict(glossary.terms("zh-TW")) == {"Ada": "愛達", "Bob": "鲍勃"}
    assert dict(glossary.terms("zh-CN")) == {"Ada": "爱达", "Bob": "鲍勃"}
    assert dict(glossary.terms("de")) == {"Ada": "Ada"}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("Ada = ", "not valid TOML"),
        ("Ada = 3", "a text in quotes"),
        ('Ada = ""', "neither side may be empty"),
        ('[klingon]\nAda = "A"', "is not a language"),
        (f'Ada = "{"x" * 300}"', "up to 200 characters"),
        ("\n".join(f't{number} = "x"' for number in range(1001)), "up to 1000"),
        ("a = " + "[" * 30_000, "nested too deeply"),
        ("a = " + "{a = " * 10_000, "nested too deeply"),
        ("a = " + "1" * 60_000, "4300 digits"),
        ("\na = " + "a." * 32_000 + "a = 1", "not valid TOML"),
        ("\n" + "a." * 32_000 + "a = 1", "line 2: a key with too many parts"),
        ("x = {y = 1, " + "'a' . " * 10_000 + "a = 1}", "line 1: a key with too many parts"),
        ("[" + '"a".' * 10_000 + "a]", "line 1: a key with too many parts"),
        (f"[{'klingon' * 9_000}]", "is not a language"),
        (f"{'a' * 60_000} = 1", "a text in quotes"),
    ],
)
def test_an_invalid_glossary_is_rejected_with_its_cause(text: str, cause: str) -> None:
    with pytest.raises(GlossaryError, match=cause) as error:
        Glossary(text)
    assert len(str(error.value)) < 400


TOML = st.lists(
    st.sampled_from(
        ["a", "zh", '"', "'", '"""', ".", "=", "[", "]", "{", "}", ",", "\n", " ", "\\", "#", "1e9", "-", "_"]
    )
    | st.text(max_size=3),
    max_size=30,
).map("".join)


@given(TOML | st.builds(lambda text: text * 400, TOML))
def test_any_text_is_a_glossary_or_rejected(text: str) -> None:
    try:
        terms = Glossary(text).terms("zh-TW")
    except GlossaryError:
        return
    assert len(terms) <= 1000
    assert all(contains(f" {term} ", term) and translation for term, translation in terms)
