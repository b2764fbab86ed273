"""Parameters of the HTTP interfaces as clients really send them."""

from __future__ import annotations

import pytest

from subtitled.http.errors import RequestError
from subtitled.http.openai import parse_fields
from subtitled.http.whisper_asr_webservice import parse_query


@pytest.mark.parametrize(
    "fields",
    [
        {"timestamp_granularities[]": ["word", "segment"]},
        {"timestamp_granularities": ["word", "segment"]},
        {"timestamp_granularities[0]": ["word"], "timestamp_granularities[1]": ["segment"]},
        {"timestamp_granularities": ['["word", "segment"]']},
        {"timestamp_granularities[]": ["word,segment"]},
    ],
)
def test_granularities_may_be_a_list_in_any_form(fields: dict[str, list[str]]) -> None:
    request = parse_fields(fields, ["demo"])
    assert request.has_words
    assert request.has_segments
    words = parse_fields({"timestamp_granularities": ['["word"]']}, ["demo"])
    assert (words.has_words, words.has_segments) == (True, False)


def test_unknown_granularity_is_rejected() -> None:
    with pytest.raises(RequestError, match="'char' is not allowed"):
        parse_fields({"timestamp_granularities": ["word,char"]}, ["demo"])


@pytest.mark.parametrize("language", ["", "und", "UND", "null", "None", "undefined", " ", "unknown"])
def test_language_that_a_client_does_not_know_is_detected(language: str) -> None:
    assert parse_fields({"language": [language]}, ["demo"]).language == "auto"
    assert parse_query({"language": language}).language == "auto"


@pytest.mark.parametrize("language", ["en", "pt-BR", "klingon"])
def test_other_languages_are_passed_to_the_daemon(language: str) -> None:
    assert parse_fields({"language": [language]}, ["demo"]).language == language
    assert parse_query({"language": language}).language == language
