"""The language of a subtitle file, by its text."""

from __future__ import annotations

import pytest

from subtitled.media.subtitle_source import language_of_text


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
