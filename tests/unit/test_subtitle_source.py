"""The language and the cues of a subtitle file that is translated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from subtitled.media.subtitle_source import language_of_text, read_subtitle_file

if TYPE_CHECKING:
    from pathlib import Path

ENGLISH = "Where were you last night? I was at the station and you did not come."


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Where were you last night? I was at the station and you did not come.", "en"),
        ("Wo warst du gestern Abend? Ich war am Bahnhof, und du bist nicht gekommen.", "de"),
        ("Où étais-tu hier soir ? J'étais à la gare et tu n'es pas venu, que je sache.", "fr"),
        ("¿Dónde estabas anoche? Yo estaba en la estación y no viniste por mí, no lo entiendo.", "es"),
        ("昨天晚上你在哪里。我在车站。", "zh"),
        ("昨日の夜どこにいたの。駅で待っていたのに。", "ja"),
        ("어젯밤에 어디 있었어?", "ko"),
        ("Где ты был вчера вечером?", "ru"),
        ("Де ти був учора ввечері? Я чекав на вокзалі, її не було.", "uk"),
        ("Kv", None),
        ("♪ … 1984", None),
        ("", None),
    ],
)
def test_language_is_found_by_script_and_frequent_words(text: str, language: str | None) -> None:
    assert language_of_text(text) == language


@pytest.mark.parametrize(
    ("name", "text", "language"),
    [
        ("movie.en.hi.srt", ENGLISH, "en"),
        ("movie.en.hi.srt", "Kv", "en"),
        ("movie.hi.srt", ENGLISH, "en"),
        ("movie.hi.srt", "तुम कल रात कहाँ थे?", "hi"),
        ("movie.zh-TW.forced.srt", "昨天晚上你在哪裡。", "zh"),
        ("Dr.No.srt", ENGLISH, "en"),
        ("what.is.it.srt", ENGLISH, "en"),
        ("this.is.srt", ENGLISH, "en"),
        ("movie.no.srt", "Og det er jeg ikke en at på vi du har, det er jeg.", "no"),
        ("movie.bg.srt", "Къде беше снощи?", "bg"),
        ("movie.de.srt", "Kv", "de"),
        ("movie.srt", ENGLISH, "en"),
    ],
)
def test_language_is_that_of_the_name_unless_the_text_is_certainly_in_another(
    tmp_path: Path, name: str, text: str, language: str
) -> None:
    path = tmp_path / name
    path.write_text(f"1\n00:00:01,000 --> 00:00:02,000\n{text}\n", "utf-8")
    assert read_subtitle_file(str(path), root=None, language=None)[1] == language
    assert read_subtitle_file(str(path), root=None, language="fr")[1] == "fr"
