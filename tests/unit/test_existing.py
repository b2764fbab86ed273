"""Which subtitles a media file already has, and whether it is skipped because of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from subtitled.config.checks import LANGUAGES
from subtitled.core.protocol import SkipRule
from subtitled.languages import NATIVE_NAMES, chinese_of, code_of, name_of
from subtitled.media.existing_subtitles import (
    ExistingSubtitles,
    MediaTracks,
    apply_rule,
    language_of,
    parse_name,
    subtitle_files,
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
        ("talk.English.srt", "en"),
        ("talk.nb.srt", "no"),
        ("talk.nb-NO.srt", "no"),
        ("talk.cht.srt", "zh"),
        ("talk.pob.srt", "pt"),
        ("talk.2.en.srt", "en"),
        ("talk.en.2.srt", "en"),
        ("talk.3.srt", None),
        ("talk.und.srt", None),
        ("talk.und.sdh.srt", None),
        ("talk.Français.srt", "fr"),
        ("talk.Portuguese (Brazil).srt", "pt"),
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
    ("tags", "code"),
    [
        ("en ENG English english en-US en_GB EN-us-x-private", "en"),
        (
            "zh zho chi cmn zh-TW zh-Hant zh_Hans-CN cht chs zht chinese 中文 简体中文 繁體中文 中文\uff08繁體\uff09",
            "zh",
        ),
        ("yue zh-yue Cantonese", "yue"),
        ("no nor nb nob nb-NO no-NO Norwegian norsk bokmål", "no"),
        ("nn nno nn-NO Nynorsk", "nn"),
        ("pt por pt-BR pt_PT ptbr pob Portuguese português portugues", "pt"),
        ("he heb iw iw-IL", "he"),
        ("id ind in", "id"),
        ("yi yid ji", "yi"),
        ("ro ron rum mo mol", "ro"),
        ("sr srp scc sh", "sr"),
        ("jw jv jav", "jw"),
        ("de deu ger", "de"),
        ("fr fra fre French français francais", "fr"),
        ("es spa es-419 español espanol", "es"),
        ("sw swa swh", "sw"),
        ("az aze azj az-Latn", "az"),
        ("ar ara arb arz", "ar"),
        ("mn mon khk", "mn"),
        ("ne nep npi", "ne"),
        ("uz uzb uzn", "uz"),
        ("cs ces cze", "cs"),
        ("nl nld dut flemish", "nl"),
        ("sq sqi alb", "sq"),
        ("hy hye arm", "hy"),
        ("eu eus baq", "eu"),
        ("my mya bur", "my"),
        ("ka kat geo", "ka"),
        ("el ell gre", "el"),
        ("is isl ice", "is"),
        ("mk mkd mac", "mk"),
        ("mi mri mao", "mi"),
        ("ms msa may", "ms"),
        ("fa fas per farsi", "fa"),
        ("sk slk slo", "sk"),
        ("bo bod tib", "bo"),
        ("cy cym wel", "cy"),
        ("tl tgl fil", "tl"),
    ],
)
def test_a_language_is_known_by_every_name_that_people_use(tags: str, code: str) -> None:
    assert {tag: code_of(tag) for tag in tags.split()} == dict.fromkeys(tags.split(), code)
    assert {tag: code_of(tag.upper()) for tag in tags.split()} == dict.fromkeys(tags.split(), code)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("Portuguese (Brazil)", "pt"),
        ("Chinese (Traditional)", "zh"),
        ("Traditional Chinese", "zh"),
        ("Norwegian Bokmål", "no"),
        ("Norwegian Nynorsk", "nn"),
        ("Latin American Spanish", "es"),
        ("Haitian Creole", "ht"),
    ],
)
def test_a_language_is_known_by_names_of_several_words(name: str, code: str) -> None:
    assert code_of(name) == code


@pytest.mark.parametrize(
    "tag", [None, "", "und", "mul", "zxx", "xx", "klingon", "the", "part2", "2", "Director", "e" * 500]
)
def test_other_words_are_not_languages(tag: str | None) -> None:
    assert code_of(tag) is None


def test_every_language_of_whisper_is_known_by_its_code_and_its_names() -> None:
    assert set(NATIVE_NAMES) == set(LANGUAGES)
    for code in LANGUAGES:
        assert {code_of(name) for name in (code, name_of(code), NATIVE_NAMES[code])} == {code}


def test_a_numbered_subtitle_file_belongs_to_the_media_file_of_its_whole_name(tmp_path: Path) -> None:
    for name in ("talk.mp4", "talk.2.mkv", "talk.2.en.srt"):
        (tmp_path / name).touch()
    for source, found in (("talk.mp4", ()), ("talk.2.mkv", (ExistingSubtitles("talk.2.en.srt", "en"),))):
        rule = SkipRule(
            rule="any",
            language=None,
            source=bytes(tmp_path / source),
            folders=(bytes(tmp_path),),
            ours=(),
        )
        assert subtitle_files(rule) == found


@pytest.mark.parametrize(
    ("characters", "tags"),
    [
        (
            "tw",
            "zh-Hant zh-TW zh_TW zh-hant-TW zht cht 繁體 繁體中文 中文\uff08繁體\uff09 正體中文 Chinese-Traditional",
        ),
        ("hk", "zh-HK zh-Hant-HK zh-MO yue-HK"),
        ("cn", "zh-Hans zh-CN zh-SG chs 简体 简体中文 zh-Hans-HK"),
        ("off", "zh zho chi cmn Chinese yue en en-HK pt-TW auto multi klingon"),
    ],
)
def test_name_of_a_language_chooses_chinese_characters(characters: str, tags: str) -> None:
    assert {tag: chinese_of(tag) for tag in tags.split()} == dict.fromkeys(tags.split(), characters)
    assert chinese_of("Chinese (Traditional)") == chinese_of("Chinese (Taiwan)") == "tw"
    assert chinese_of("Chinese (Hong Kong)") == "hk"
