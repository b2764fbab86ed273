"""Text as a viewer sees it."""

from __future__ import annotations

import unicodedata

_NEVER_FIRST = frozenset("、。，．：；！？…ーぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ々〜～・％,.:;!?%")  # noqa: RUF001 - Japanese is meant
"""Characters that no line begins with (the Japanese kinsoku rule; JIS X 4051), beside closing brackets."""
_JOINER = "\u200d"


def columns(text: str) -> int:
    """Return the columns that `text` takes: 2 for full-width characters (UAX #11), 0 for marks."""
    return len(text) if text.isascii() else sum(_width(char) for char in text)


def is_mostly_wide(text: str) -> bool:
    """Return whether more than half of the columns of `text` belong to full-width characters."""
    if text.isascii():
        return False
    wide = sum(2 for char in text if _width(char) == 2)
    return 2 * wide > columns(text)


def weight(text: str) -> int:
    """Return the number of characters of `text` that are not whitespace: its share of a phrase's time."""
    return sum(not char.isspace() for char in text)


def clean(text: str) -> str:
    """Return `text` on one line: runs of whitespace as one space, none at the ends, no control characters."""
    words = " ".join(text.split())
    return "".join(char for char in words if unicodedata.category(char) != "Cc").strip()


def units(text: str) -> tuple[str, ...]:
    """Return `text` cut wherever a line may break; joined again they are `text`.

    A word keeps the whitespace before it. Chinese and Japanese break between characters, save before closing
    and after opening punctuation; Korean breaks between words, as its readers expect.
    """
    found: list[str] = []
    current, previous = "", ""
    for char in text:
        if current.strip() and _may_break(previous, char):
            found.append(current)
            current = ""
        current += char
        previous = char
    return (*found, current) if current else tuple(found)


def cut(unit: str, limit: int) -> tuple[str, ...]:
    """Return `unit` in parts of at most `limit` columns (2 or more) beside the whitespace at their ends.

    A mark takes none, so it stays with its character.
    """
    if columns(unit.strip()) <= limit:
        return (unit,)
    parts: list[str] = []
    current = ""
    for char in unit:
        if columns((current + char).strip()) > limit:
            parts.append(current)
            current = ""
        current += char
    return (*parts, current) if current else tuple(parts)


def _width(char: str) -> int:
    if char.isascii():
        return 1
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _may_break(previous: str, char: str) -> bool:
    if char.isspace() or previous.isspace():
        return char.isspace()
    if char in _NEVER_FIRST or unicodedata.category(char) in {"Pe", "Pf"} or _clings(previous, char):
        return False
    if unicodedata.category(previous) in {"Ps", "Pi"}:
        return False
    return _stands_alone(char) or _stands_alone(previous)


def _stands_alone(char: str) -> bool:
    """Whether a line may break on either side of `char`: full-width, but no letter of Korean."""
    return _width(char) == 2 and not unicodedata.name(char, "").startswith(("HANGUL", "HALFWIDTH HANGUL"))


def _clings(previous: str, char: str) -> bool:
    """Whether `char` is drawn as one with `previous`: a mark, a joined emoji, a skin tone."""
    return _width(char) == 0 or previous == _JOINER or "\U0001f3fb" <= char <= "\U0001f3ff"
