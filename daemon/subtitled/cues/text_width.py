"""Width of text on the screen, in columns."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from subtitled.config.layout_limits import LayoutLimits

_JOINER = "\u200d"
_VIRAMA_CLASS = 9
"""Canonical combining class of the signs that join two Indic consonants."""
_FULL_WIDTH_LANGUAGES = frozenset({"zh", "yue", "ja", "ko"})


def columns_per_char(language: str | None) -> int:
    """Return the columns of one character of a limit: 2 for Chinese, Japanese and Korean, else 1.

    The Netflix guides for these languages count full-width characters, and Latin letters half.
    """
    return 2 if (language or "").partition("-")[0].lower() in _FULL_WIDTH_LANGUAGES else 1


def columns(text: str) -> int:
    """Return the columns of `text`: 2 for a full-width character (UAX #11), 0 for marks and joiners."""
    if text.isascii():
        return len(text)
    total = 0
    previous = " "
    for char in text:
        total += 0 if _joins(previous, char) else width(char)
        previous = char
    return total


@lru_cache(maxsize=8192)
def width(char: str) -> int:
    """Return the columns of one character: 0, 1 or 2."""
    if char.isascii():
        return 1
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def is_combining(previous: str, char: str) -> bool:
    """Return whether `char` is drawn as one grapheme with `previous`: a mark, a joined emoji, a skin tone, a conjunct."""
    if char.isascii():
        return False
    return (
        width(char) == 0
        or unicodedata.category(char) == "Mc"
        or _joins(previous, char)
        or unicodedata.combining(previous) == _VIRAMA_CLASS
    )


def graphemes(text: str, start: int = 0) -> Iterator[str]:
    """Yield the graphemes of `text` from `start` on.

    By the rules of UAX #29 that the standard library has data for: marks, joiners, skin tones, Indic conjuncts, flags.
    """
    current = ""
    for at in range(start, len(text)):
        char = text[at]
        is_flag = _is_regional(char) and len(current) == 1 and _is_regional(current)
        if current and not is_flag and not is_combining(current[-1], char):
            yield current
            current = ""
        current += char
    if current:
        yield current


def _joins(previous: str, char: str) -> bool:
    """Return whether `char` continues the emoji of `previous`: after a joiner, or as a skin tone."""
    return not previous.isspace() and (previous == _JOINER or "\U0001f3fb" <= char <= "\U0001f3ff")


def _is_regional(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def fits_one_cue(text: str, duration_ms: int, limits: LayoutLimits, language: str | None) -> bool:
    """Return whether a phrase fits one cue: not wider than all its lines, not longer than `max_ms`."""
    max_columns = limits.max_chars * limits.max_lines * columns_per_char(language)
    is_narrow = not max_columns or columns(text.strip()) <= max_columns
    return is_narrow and not (limits.max_ms and duration_ms > limits.max_ms)
