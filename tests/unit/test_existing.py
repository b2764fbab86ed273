"""Which subtitles a media file already has, and whether it is skipped because of them."""

from __future__ import annotations

import pytest

from subtitled.core.protocol import SkipRule
from subtitled.languages import code_of
from subtitled.media.existing_subtitles import (
    ExistingSubtitles,
    MediaTracks,
    apply_rule,
    language_of,
    parse_name,
)


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("talk.srt", None),
        ("talk.en.srt", "en"),
        ("talk.eng.srt", "en"),
        ("talk.en.sdh.srt", "en"),
        ("talk.default.de.ass", "de"),
        ("talk.zh-Hans.vtt", "zh"),
        ("talk.pt_BR.vtt", "pt"),
        ("talk.ger.Director.srt", "de"),
        ("talk.mp4.fr.SRT", "fr"),
        ("talk.hi.srt", None),
        ("talk.ja.hi.srt", "ja"),
        ("talk.jv.srt", "jw"),
    ],
)
def test_files_that_players_show_with_a_source_are_its_subtitles(name: str, language: str | None) -> None:
    assert parse_name("talk.mp4", name) == ExistingSubtitles(name, language)


@pytest.mark.parametrize(
    "name",
    [
        "talk.mp4",
        "talk.en.txt",
        "talk.en.json",
        "talks.en.srt",
        "talk.part2.srt",
        "talk.part2.en.srt",
        "talk",
        ".srt",
        "talk.en.forced.srt",
        "talk.foreign.srt",
    ],
)
def test_other_files_are_not(name: str) -> None:
    """Nor are forced tracks, which show only the foreign parts of a film."""
    assert parse_name("talk.mp4", name) is None


def test_a_source_with_dots_has_its_own_subtitles() -> None:
    assert parse_name("talk.part2.mp4", "talk.part2.en.srt") == ExistingSubtitles("talk.part2.en.srt", "en")
    assert parse_name("talk.en.mp4", "talk.en.srt") == ExistingSubtitles("talk.en.srt", None)


def unless(rule: str, language: str | None) -> SkipRule:
    return SkipRule(rule=rule, language=language, source=b"/in/talk.mp4", folders=(b"/in",), ours=())


FRENCH = ExistingSubtitles("talk.fr.srt", "fr")
TRACK = ExistingSubtitles("track 2, eng", "en")
NAMELESS = ExistingSubtitles("talk.srt", None)


@pytest.mark.parametrize(
    ("rule", "language", "found", "audio", "cause"),
    [
        ("any", "de", [FRENCH], None, 'subtitles already: talk.fr.srt (skip_existing = "any")'),
        ("any", "de", [NAMELESS], None, "talk.srt"),
        ("any", "de", [], None, ""),
        ("language", "fr", [FRENCH], None, 'in fr already: talk.fr.srt (skip_existing = "language")'),
        ("language", "en", [FRENCH, TRACK], None, "track 2, eng"),
        ("language", "de", [FRENCH, TRACK], None, ""),
        ("language", None, [FRENCH], "fr", "talk.fr.srt"),
        ("language", None, [FRENCH], "en", ""),
        ("language", None, [FRENCH, NAMELESS], None, ""),
        ("language", "en", [FRENCH], "fr", ""),
    ],
)
def test_what_is_there_makes_ours_unnecessary_by_the_rule(
    rule: str, language: str | None, found: list[ExistingSubtitles], audio: str | None, cause: str
) -> None:
    tracks = tuple(one for one in found if one is TRACK)
    files = [one for one in found if one is not TRACK]
    said = apply_rule(MediaTracks(tracks, audio), files, unless(rule, language))
    assert cause in said
    assert bool(said) is bool(cause)


def test_a_translation_is_english_and_a_guess_is_left_to_the_audio() -> None:
    assert language_of("auto", "translate") == "en"
    assert language_of("de", "transcribe") == "de"
    assert language_of("auto", "transcribe") is language_of("multi", "transcribe") is None


@pytest.mark.parametrize(
    ("tag", "code"),
    [("ENG", "en"), ("zho", "zh"), ("chi", "zh"), ("nob", "no"), ("yue", "yue"), ("xx", None), (None, None)],
)
def test_tags_of_containers_are_whispers_languages(tag: str | None, code: str | None) -> None:
    assert code_of(tag) == code
