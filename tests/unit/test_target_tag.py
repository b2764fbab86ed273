"""A language to translate to is named in any usual way."""

from __future__ import annotations

import pytest

from subtitled.languages import target_tag


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ja", "ja"),
        ("Japanese", "ja"),
        ("日本語", "ja"),
        ("jpn", "ja"),
        ("zh-TW", "zh-TW"),
        ("zh_tw", "zh-TW"),
        ("cht", "zh-TW"),
        ("zho-tw", "zh-TW"),
        ("Traditional Chinese", "zh-TW"),
        ("繁體中文", "zh-TW"),
        ("cn", "zh-CN"),
        ("ZH-hant", "zh-Hant"),
        ("pt-br", "pt-BR"),
        ("Portuguese (Brazil)", "pt"),
        ("es-419", "es-419"),
        ("iw", "he"),
        ("jw", "jv"),
        ("ceb", "ceb"),
        ("xx", None),
        ("und", None),
        ("auto", None),
        ("multi", None),
        ("klingon", None),
        ("", None),
        ("../etc", None),
        ("zh-Hant-TW-x-aaaaaaaa-bbbbbbbb-cccccc", None),
        ("zh-x-private", None),
        ("zh-Hant-TW-u-ca-roc-co-stroke-nu-hanidec", None),
    ],
)
def test_a_target_language_has_one_tag(name: str, expected: str | None) -> None:
    assert target_tag(name) == expected
