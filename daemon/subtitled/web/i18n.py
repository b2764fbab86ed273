"""The page's languages: message files, the choice of a language, numbers and units."""

from __future__ import annotations

import time
import tomllib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from subtitled.languages import NATIVE_NAMES, code_of

COOKIE = "subtitled_language"
PARAMETER = "lang"
DEFAULT_LANGUAGE = "en"
_YEAR_S = 365 * 24 * 3600
_SIZES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_FIRST_CHOICES: Final = ("en", "zh", "yue", "ja", "ko")


def messages_folder() -> Traversable:
    """Return the folder with one file for each language."""
    return files("subtitled.web").joinpath("messages")


@cache
def catalogs() -> dict[str, dict[str, str]]:
    """Return the messages of each language (BCP 47) by key, the default language first; read once."""
    found = {
        file.name.removesuffix(".toml"): tomllib.loads(file.read_text("utf-8"))
        for file in messages_folder().iterdir()
        if file.name.endswith(".toml")
    }
    english = found.pop(DEFAULT_LANGUAGE)
    # A language without plural forms must not show the English singular.
    fallback = {key: text for key, text in english.items() if not key.endswith(".one")}
    return {DEFAULT_LANGUAGE: english} | {name: fallback | found[name] for name in sorted(found)}


class Translator:
    """Messages, numbers and units in one language; templates call it as `t(KEY, n=2)`."""

    def __init__(self, language: str) -> None:
        """`language` is one of `catalogs`."""
        self.language = language
        self._messages = catalogs()[language]

    def __call__(self, key: str, **values: object) -> str:
        """Return the message of a key with its placeholders filled in; integers are formatted."""
        if values.get("n") == 1 and f"{key}.one" in self._messages:
            key = f"{key}.one"
        formatted = {
            name: self.number(value) if isinstance(value, int) else value for name, value in values.items()
        }
        return self._messages[key].format(**formatted)

    def lookup(self, prefix: str, name: str) -> str:
        """Return the message of `PREFIX.NAME`; `name` itself if a newer daemon sent an unknown one."""
        return self._messages.get(f"{prefix}.{name}", name)

    def language_name(self, code: str) -> str:
        """Return the name of a language by Whisper's code; the code itself if it is unknown."""
        return self.lookup("lang", code)

    def target_name(self, tag: str) -> str:
        """Return the name of a language to translate to, with its tag if that names a country or a script."""
        name = self.language_name(code_of(tag) or tag)
        return self("translation.language", name=name, tag=tag) if "-" in tag else name

    def script_messages(self, prefix: str = "script") -> dict[str, str]:
        """Return the messages that scripts use, by key without its prefix."""
        start = f"{prefix}."
        return {
            key.removeprefix(start): text for key, text in self._messages.items() if key.startswith(start)
        }

    def number(self, value: float) -> str:
        """Format a number: one decimal below 10 unless it is an integer."""
        return f"{value:,.0f}" if isinstance(value, int) or value >= 9.95 else f"{value:.1f}"

    def ordinal(self, n: int) -> str:
        """Format a position: 7th in English, 7 in other languages, whose messages add the rest."""
        if self.language != DEFAULT_LANGUAGE:
            return str(n)
        suffix = "th" if n % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
        return f"{n:,}{suffix}"

    def percent(self, fraction: float) -> str:
        """Format a fraction; 100% only if it is complete."""
        return f"{min(int(fraction * 100), 99 if fraction < 1 else 100)}%"

    def size(self, count: float) -> str:
        """Format a number of bytes."""
        for unit, name in _SIZES:
            if count >= unit:
                return f"{self.number(count / unit)} {name}"
        return f"{count:.0f} B"

    def speed(self, factor: float) -> str:
        """Format a speed relative to real time."""
        return self("unit.speed", n=self.number(float(factor)))

    def duration(self, ms: float) -> str:
        """Format a duration in its two largest units."""
        minutes = round(ms / 60_000)
        if ms < 59_500:
            return self("unit.s", n=round(ms / 1000))
        if minutes < 60:
            return self("unit.min", n=minutes)
        hours, minutes = divmod(minutes, 60)
        if hours < 24:
            return self("unit.h_min", h=hours, min=minutes) if minutes else self("unit.h", n=hours)
        return self("unit.d_h", d=hours // 24, h=hours % 24)

    def clock(self, ms: int) -> str:
        """Format a position in a file: 1:05, 1:00:05."""
        minutes, seconds = divmod(ms // 1000, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

    def ago(self, time_ms: int) -> str:
        """Format the time since then in minutes, so that the page does not change every second."""
        passed_ms = time.time() * 1000 - time_ms
        return self("unit.now") if passed_ms < 60_000 else self("unit.ago", time=self.duration(passed_ms))


def language_of(request: Request) -> str:
    """Return the language chosen in the query or the cookie, else the one the browser prefers."""
    for chosen in (request.query_params.get(PARAMETER), request.cookies.get(COOKIE)):
        if chosen in catalogs():
            return chosen
    return preferred_language(request.headers.get("accept-language", ""))


def remember_language(request: Request, response: Response) -> None:
    """Store a language chosen in the query in a cookie."""
    chosen = request.query_params.get(PARAMETER)
    if chosen in catalogs():
        response.set_cookie(COOKIE, chosen, max_age=_YEAR_S, httponly=True, samesite="lax")


def preferred_language(accept_language: str) -> str:
    """Return the available language that an Accept-Language header (RFC 9110, 12.5.4) prefers.

    Only primary subtags are compared: zh-CN selects zh-Hant.
    """
    available = {name.split("-")[0].lower(): name for name in reversed(catalogs())}
    best, best_quality = DEFAULT_LANGUAGE, 0.0
    for part in accept_language[:1000].split(","):
        tag, _, params = part.strip().lower().partition(";")
        language = available.get(tag.split("-")[0].strip())
        quality = _quality(params)
        if language is not None and quality > best_quality:
            best, best_quality = language, quality
    return best


def _quality(params: str) -> float:
    name, _, value = params.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def language_choices(t: Translator) -> list[tuple[str, str]]:
    """Return (code, name in the page's language) of all languages in the order of the upload form."""
    names = [(code, t.language_name(code)) for code in NATIVE_NAMES]
    first = [(code, t.language_name(code)) for code in _FIRST_CHOICES]
    return first + sorted(set(names) - set(first), key=lambda choice: choice[1].casefold())
