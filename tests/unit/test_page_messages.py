"""The messages of the web page: complete in each language, all used, and formatted as the language does."""

from __future__ import annotations

import re
import string
import tomllib
from pathlib import Path

import pytest

from subtitled.core.states import JobEvent, SegmentEvent
from subtitled.web.i18n import Translator, catalogs, preferred_language

_WEB = Path(__file__).parents[2] / "daemon" / "subtitled" / "web"
_KEY = re.compile(r"""["']([a-z_0-9]+(?:\.[a-z_0-9]+)+)["']""")
_PREFIX = re.compile(r"""\.lookup\(\s*["']([a-z_.]+)["']""")
_SCRIPT_CALL = re.compile(r"""\bmessage\(\s*["'](\w+)["']""")
_QUOTED = re.compile(r"""["'](\w+)["']""")
FILES = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in (_WEB / "messages").iterdir()}
ENGLISH = FILES["en"]


def sources() -> list[str]:
    return [path.read_text("utf-8") for path in (*_WEB.glob("*.py"), *_WEB.glob("templates/*.html"))]


def script_keys(pattern: re.Pattern[str]) -> set[str]:
    texts = [path.read_text("utf-8") for path in _WEB.glob("static/*.js")]
    return {f"script.{key}" for text in texts for key in pattern.findall(text)}


def used_keys() -> set[str]:
    """Return the keys in templates, modules and scripts; every quoted string that looks like a key counts."""
    texts = sources()
    quoted = {key for text in texts for key in _KEY.findall(text)}
    prefixes = {prefix for text in texts for prefix in _PREFIX.findall(text)}
    looked_up = {key for key in ENGLISH if key.rpartition(".")[0] in prefixes}
    # Those of reasons and languages are named by the daemon: see test_reasons.
    named = {key for key in ENGLISH if key.startswith(("reason.", "lang."))}
    return quoted | script_keys(_QUOTED) | looked_up | named | {"language.name"}


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_key_that_is_used_has_a_message() -> None:
    calls = re.compile(r"""\bt\(\s*["']([\w.]+)["']""")
    used = {key for text in sources() for key in calls.findall(text)}
    available = {re.sub("^(player|editor)_", "", key) for key in ENGLISH}
    assert used - ENGLISH.keys() == set()
    assert script_keys(_SCRIPT_CALL) - available == set()


def test_every_message_is_used() -> None:
    keys = {re.sub("^(player|editor)_", "", key.removesuffix(".one")) for key in ENGLISH}
    assert keys - used_keys() == set()


@pytest.mark.parametrize("language", sorted(FILES))
def test_a_language_has_every_message_with_the_same_placeholders(language: str) -> None:
    messages = FILES[language]
    # A language without a plural needs no message for one.
    required = {key for key in ENGLISH if not key.endswith(".one")}
    assert required - messages.keys() == set()
    assert messages.keys() - ENGLISH.keys() == set()
    assert [key for key, text in messages.items() if not text.strip()] == []
    wrong = [
        key
        for key, text in messages.items()
        if placeholders(text) - {"n"} != placeholders(ENGLISH[key]) - {"n"}
    ]
    assert wrong == []


def test_a_language_without_singular_messages_uses_its_plural() -> None:
    assert list(catalogs()) == ["en", "zh-Hant"]
    assert Translator("zh-Hant")("summary.files", n=1) == "1 個檔案處理中。"


def test_every_event_of_a_job_has_a_message() -> None:
    """The history of a job has only failures of segments."""
    expected = {f"history.job.{event.value}" for event in JobEvent} | {"history.job.accepted"}
    shown = (event.value for event in SegmentEvent if event.value not in {"leased", "done"})
    expected |= {f"history.segment.{event}" for event in shown}
    assert expected - ENGLISH.keys() == set()


def test_singular_messages_have_a_plural() -> None:
    assert Translator("en")("summary.files", n=1) == "1 file in progress."
    assert {key.removesuffix(".one") for key in ENGLISH if key.endswith(".one")} <= ENGLISH.keys()


@pytest.mark.parametrize(
    ("accept_language", "language"),
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
def test_the_preferred_language_of_a_browser_is_chosen(accept_language: str, language: str) -> None:
    assert preferred_language(accept_language) == language


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
def test_durations_have_their_two_largest_units(ms: int, english: str, chinese: str) -> None:
    assert [Translator(language).duration(ms) for language in ("en", "zh-Hant")] == [english, chinese]


def test_numbers_are_short_and_have_units() -> None:
    t = Translator("en")
    assert [t.size(count) for count in (0, 999, 1_000, 12_340_000, 5 * 10**12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "12 MB",
        "5.0 TB",
    ]
    assert [t.speed(factor) for factor in (0.26, 9.96, 42.4, 1234)] == [
        f"{factor}\N{MULTIPLICATION SIGN}" for factor in ("0.3", "10", "42", "1,234")
    ]
    assert [t.ordinal(n) for n in (1, 2, 3, 4, 11, 112, 1021)] == [
        "1st",
        "2nd",
        "3rd",
        "4th",
        "11th",
        "112th",
        "1,021st",
    ]
    assert [t.percent(fraction) for fraction in (0, 0.999, 1)] == ["0%", "99%", "100%"]


def test_an_unknown_name_of_a_newer_daemon_is_shown_unchanged() -> None:
    assert Translator("zh-Hant").lookup("state", "done") == "完成"
    assert Translator("zh-Hant").lookup("state", "dreaming") == "dreaming"
