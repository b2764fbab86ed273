"""The page's words: each in both languages, none that is missing, none that nobody says."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from subtitled.core.states import JobEvent, SegmentEvent
from subtitled.web.i18n import Translator
from subtitled.web.language_choice import preferred
from subtitled.web.messages import LANGUAGES, WORDS

_PAGE = Path(__file__).parents[2] / "daemon" / "subtitled" / "web"
_KEY = re.compile(r"""["']([a-z_0-9]+(?:\.[a-z_0-9]+)+)["']""")
_FAMILY = re.compile(r"""\.of\(\s*["']([a-z_.]+)["']""")
_SAID = re.compile(r"""\bsay\(\s*["'](\w+)["']""")
_QUOTED = re.compile(r"""["'](\w+)["']""")


def sources() -> list[Path]:
    return [
        *(path for path in _PAGE.glob("*.py") if not path.name.endswith("messages.py")),
        *_PAGE.glob("templates/*.html"),
    ]


def said_by_scripts(pattern: re.Pattern[str] = _SAID) -> set[str]:
    texts = [path.read_text("utf-8") for path in _PAGE.glob("static/*.js")]
    return {f"script.{key}" for text in texts for key in pattern.findall(text)}


def said() -> set[str]:
    """Give the keys that templates, modules and scripts name; whatever looks like one counts."""
    texts = [path.read_text("utf-8") for path in sources()]
    named = {key for text in texts for key in _KEY.findall(text)}
    families = {family for text in texts for family in _FAMILY.findall(text)}
    of_families = {key for key in WORDS if key.rpartition(".")[0] in families}
    return named | said_by_scripts(_QUOTED) | of_families


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_word_that_is_said_is_there() -> None:
    calls = re.compile(r"""\bt\(\s*["']([\w.]+)["']""")
    wanted = {key for path in sources() for key in calls.findall(path.read_text("utf-8"))}
    heard = {key.replace("player_script.", "script.") for key in WORDS}
    assert wanted - WORDS.keys() == set()
    assert said_by_scripts() - heard == set()


def test_no_word_is_there_that_nobody_says() -> None:
    keys = {key.removesuffix(".one").replace("player_script.", "script.") for key in WORDS}
    unsaid = keys - said()
    assert unsaid == set()


@pytest.mark.parametrize("key", sorted(WORDS))
def test_a_word_is_there_in_both_languages_with_the_same_places(key: str) -> None:
    english, chinese = WORDS[key]
    assert english
    assert chinese
    # What is said of one may do without the number.
    assert places(english) - {"n"} == places(chinese) - {"n"}


def test_what_can_happen_to_a_job_is_told_in_words() -> None:
    """Of segments a job's history has only what went wrong."""
    told = {f"step.job.{event.value}" for event in JobEvent} | {"step.job.accepted"}
    told |= {f"step.segment.{event.value}" for event in SegmentEvent if event.value not in {"leased", "done"}}
    assert told - WORDS.keys() == set()


def test_one_is_not_said_as_many_are() -> None:
    assert Translator("en")("unit.s", n=1) == "1 s"
    for key in WORDS:
        if key.endswith(".one"):
            assert key.removesuffix(".one") in WORDS


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("fr", "en"),
        ("zh-TW,zh;q=0.9,en;q=0.8", "zh-Hant"),
        ("en-GB,zh-TW;q=0.9", "en"),
        ("fr,zh;q=0.3,en;q=0.2", "zh-Hant"),
        ("zh;q=0,en;q=0.1", "en"),
        ("zh;q=much", "en"),
        (";;;,q=1,=", "en"),
    ],
)
def test_a_browser_is_answered_in_what_it_prefers(accepted: str, language: str) -> None:
    assert preferred(accepted) == language


@pytest.mark.parametrize(
    ("ms", "english", "chinese"),
    [
        (0, "0 s", "0 秒"),
        (59_400, "59 s", "59 秒"),
        (59_600, "1 min", "1 分鐘"),
        (3_570_000, "1 h", "1 小時"),
        (12_000_000, "3 h 20 min", "3 小時 20 分"),
        (100_000_000, "1 d 3 h", "1 天 3 小時"),
    ],
)
def test_a_length_of_time_is_told_to_its_two_greatest_units(ms: int, english: str, chinese: str) -> None:
    assert [Translator(language).duration(ms) for language in LANGUAGES] == [english, chinese]


def test_figures_are_short_and_have_their_units() -> None:
    voice = Translator("en")
    assert [voice.size(count) for count in (0, 999, 1_000, 12_340_000, 5 * 10**12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "12 MB",
        "5.0 TB",
    ]
    assert [voice.speed(times) for times in (0.26, 9.96, 42.4, 1234)] == [
        f"{times}\N{MULTIPLICATION SIGN}" for times in ("0.3", "10", "42", "1,234")
    ]
    assert [voice.percent(share) for share in (0, 0.999, 1)] == ["0%", "99%", "100%"]


def test_what_a_newer_daemon_says_is_shown_as_it_says_it() -> None:
    assert Translator("zh-Hant").of("state", "done") == "完成"
    assert Translator("zh-Hant").of("state", "dreaming") == "dreaming"
