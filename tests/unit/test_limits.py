"""Limits are those of the published guides, unless overridden."""

from __future__ import annotations

import pytest

from subtitle.messages import LayoutOptions
from subtitled.config.layout_limits import PROFILES, LayoutLimits, Profile, limits_for
from subtitled.cues.text_width import columns, columns_per_char, fits_one_cue, graphemes


@pytest.mark.parametrize(
    ("language", "max_chars", "max_chars_per_s"),
    [
        ("en", 42, 20),
        ("de", 42, 20),
        ("zh", 16, 9),
        ("zh-TW", 16, 9),
        ("yue", 16, 9),
        ("ja", 16, 4),
        ("ko", 16, 12),
    ],
)
def test_limits_depend_on_the_language(language: str, max_chars: int, max_chars_per_s: int) -> None:
    assert limits_for(language) == LayoutLimits(max_chars, 2, max_chars_per_s, 833, 7000, 83, 500)


def test_unknown_language_has_the_limits_of_english() -> None:
    assert limits_for(None) == limits_for("xx") == limits_for("en")


@pytest.mark.parametrize("language", ["en", "zh", "ja", "ko", "th"])
def test_strict_profile_allows_no_more_than_default(language: str) -> None:
    strict, default = limits_for(language, LayoutOptions(profile="strict")), limits_for(language)
    assert strict.max_chars <= default.max_chars
    assert strict.max_chars_per_s <= default.max_chars_per_s


def test_raw_profile_has_no_limits() -> None:
    limits = limits_for("zh", LayoutOptions(profile="raw"))
    assert limits == LayoutLimits(0, 2, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("profile", PROFILES)
def test_overrides_take_precedence_over_the_profile(profile: Profile) -> None:
    limits = limits_for("en", LayoutOptions(profile=profile, max_chars=36, max_chars_per_s=12.5))
    assert (limits.max_chars, limits.max_chars_per_s) == (36, 12.5)


def test_overrides_have_the_names_of_the_limits() -> None:
    assert LayoutOptions.__struct_fields__[1:] == LayoutLimits.__struct_fields__


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (LayoutOptions(max_chars=3), "max_chars = 3: allowed: 4 to 200, or 0 for no limit"),
        (LayoutOptions(max_lines=0), "max_lines = 0: allowed: 1 to 10"),
        (LayoutOptions(gap_ms=-1), "gap_ms = -1: allowed: 0 to 10000"),
        (
            LayoutOptions(min_ms=9000),
            "min_ms = 9000 is more than max_ms = 7000; lower min_ms or raise max_ms",
        ),
        (
            LayoutOptions(max_chars=1, max_lines=99),
            "max_chars = 1: allowed: 4 to 200, or 0 for no limit; max_lines = 99: allowed: 1 to 10",
        ),
    ],
)
def test_invalid_override_is_rejected_by_name(asked: LayoutOptions, message: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the whole message is compared
        limits_for("en", asked)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("text", "duration_ms", "language", "fits"),
    [
        ("x" * 84, 7000, "en", True),
        (f"  {'x' * 84} ", 7000, "en", True),
        ("x" * 85, 7000, "en", False),
        ("x", 7001, "en", False),
        ("好" * 32, 7000, "zh", True),
        ("好" * 33, 7000, "zh", False),
        ("x" * 64, 7000, "zh", True),
    ],
)
def test_phrase_within_width_and_duration_fits_one_cue(
    text: str, duration_ms: int, language: str, *, fits: bool
) -> None:
    assert fits_one_cue(text, duration_ms, limits_for(language), language) is fits


def test_every_phrase_fits_one_cue_without_limits() -> None:
    assert fits_one_cue("x" * 1000, 60_000, limits_for("en", LayoutOptions(profile="raw")), "en")


def test_columns_count_full_width_twice_and_marks_not() -> None:
    texts = ("abc", "中文", "e\u0301", "カ", "ｶ", "👍🏽", "👨‍👩‍👧")
    assert [columns(text) for text in texts] == [3, 4, 1, 2, 1, 2, 2]


def test_full_width_characters_count_once_in_cjk_limits() -> None:
    assert [columns_per_char(language) for language in ("en", None, "zh", "ja", "ko", "zh-Hant")] == [
        1,
        1,
        2,
        2,
        2,
        2,
    ]


def test_combined_characters_are_one_grapheme() -> None:
    text = "e\u0301👍🏽🇩🇪🇫🇷👨‍👩‍👧क्षिa"
    assert list(graphemes(text)) == ["e\u0301", "👍🏽", "🇩🇪", "🇫🇷", "👨‍👩‍👧", "क्षि", "a"]
