"""How much room text takes on the screen."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from subtitled.config.layout_limits import LayoutLimits

_JOINER = "\u200d"
_VIRAMA_CLASS = 9
"""Canonical combining class of the signs that join two Indic consonants into one."""
_FULL_WIDTH_LANGUAGES = frozenset({"zh", "yue", "ja", "ko"})


def columns_per_char(language: str | None) -> int:
    """Return the columns that a limit in characters means: 2 where guides count full-width characters.

    Latin letters count half there, as in the Netflix guides for Chinese, Japanese and Korean.
    """
    return 2 if (language or "").partition("-")[0].lower() in _FULL_WIDTH_LANGUAGES else 1


def columns(text: str) -> int:
    """Return the columns that `text` takes: 2 for full-width characters (UAX #11), 0 for marks and what joins them."""
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


def clings(previous: str, char: str) -> bool:
    """Return whether `char` is drawn as one with `previous`: a mark, a joined emoji, a skin tone, a conjunct."""
    if char.isascii():
        return False
    return (
        width(char) == 0
        or unicodedata.category(char) == "Mc"
        or _joins(previous, char)
        or unicodedata.combining(previous) == _VIRAMA_CLASS
    )


def graphemes(text: str) -> Iterator[str]:
    """Yield `text` in pieces that are drawn as one and must not be torn apart.

    The rules of UAX #29 that the standard library has data for: marks, joiners, skin tones, Indic conjuncts, flags.
    """
    current = ""
    for char in text:
        is_flag = _is_regional(char) and len(current) == 1 and _is_regional(current)
        if current and not is_flag and not clings(current[-1], char):
            yield current
            current = ""
        current += char
    if current:
        yield current


def _joins(previous: str, char: str) -> bool:
    """Return whether `char` adds to the picture that `previous` belongs to: after a joiner, or a skin tone."""
    return not previous.isspace() and (previous == _JOINER or "\U0001f3fb" <= char <= "\U0001f3ff")


def _is_regional(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def fits_one_cue(text: str, duration_ms: int, limits: LayoutLimits, language: str | None) -> bool:
    """Return whether a phrase may be a cue as it is: neither wider than all its lines nor longer than `max_ms`."""
    room = limits.max_chars * limits.max_lines * columns_per_char(language)
    is_narrow = not room or columns(text.strip()) <= room
    return is_narrow and not (limits.max_ms and duration_ms > limits.max_ms)
