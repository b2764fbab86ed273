"""Words and figures in the language of one browser."""

from __future__ import annotations

import time

from subtitled.web.messages import LANGUAGES, WORDS

_SIZES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


class Translator:
    """Speaks one language; `voice("a.key", n=2)` is how templates say something."""

    def __init__(self, language: str) -> None:
        """`language`: one of LANGUAGES."""
        self.language = language
        self._place = LANGUAGES.index(language)

    def __call__(self, key: str, **values: object) -> str:
        """Return the words of a key, with values in their places; numbers are written as the language does."""
        if values.get("n") == 1 and f"{key}.one" in WORDS:
            key = f"{key}.one"
        said = {
            name: self.number(value) if isinstance(value, int) else value for name, value in values.items()
        }
        return WORDS[key][self._place].format(**said)

    def of(self, family: str, member: str) -> str:
        """Return the word for one of several that the daemon may say, or what it says where that is new."""
        words = WORDS.get(f"{family}.{member}")
        return words[self._place] if words else member

    def script(self, family: str = "script") -> dict[str, str]:
        """Return what the scripts say: those of all pages, or another family's."""
        return {
            member: words[self._place]
            for key, words in WORDS.items()
            for of, _, member in (key.partition("."),)
            if of == family
        }

    def number(self, value: float) -> str:
        """Return a number: whole from 10 on, else with one decimal where it has any."""
        return f"{value:,.0f}" if isinstance(value, int) or value >= 9.95 else f"{value:.1f}"

    def percent(self, fraction: float) -> str:
        """Return a share; whole only when all is there."""
        return f"{min(int(fraction * 100), 99 if fraction < 1 else 100)}%"

    def size(self, count: float) -> str:
        """Return bytes in the unit that suits them."""
        for unit, name in _SIZES:
            if count >= unit:
                return f"{self.number(count / unit)} {name}"
        return f"{count:.0f} B"

    def speed(self, times: float) -> str:
        """Return how many times faster than real time."""
        return self("unit.speed", n=self.number(float(times)))

    def duration(self, ms: float) -> str:
        """Return a length of time, to its two greatest units."""
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
        """Return a place in a file, as players show it: 1:05, 1:00:05."""
        minutes, seconds = divmod(ms // 1000, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

    def ago(self, at_ms: int) -> str:
        """Return how long ago that was, to the minute: what changes each second would be news each second."""
        passed_ms = time.time() * 1000 - at_ms
        if passed_ms < 60_000:
            return self("unit.now")
        return self("unit.ago", time=self.duration(passed_ms))
