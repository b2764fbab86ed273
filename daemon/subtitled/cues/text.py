"""Text as a viewer sees it."""

from __future__ import annotations

import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING

from subtitled.cues.text_width import clings, columns, graphemes, width

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEVER_FIRST = frozenset("、。，．：；！？…ーぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ々〜～・％,.:;!?%")  # noqa: RUF001 - Japanese is meant
"""Characters that no line begins with beside closing brackets (JIS X 4051; W3C jlreq, clreq)."""
DASHES = frozenset("-–—―")  # noqa: RUF001 - dashes are meant
_CLOSING = frozenset({"Pe", "Pf"})
_OPENING = frozenset({"Ps", "Pi"})
_DIGRAPHS = frozenset({"ch", "ck", "ph", "sh", "th", "qu"})
_CUT_AFTER = frozenset("-–—/_")  # noqa: RUF001 - dashes are meant


def weight(text: str) -> int:
    """Return the columns of `text` without its whitespace: its share of a phrase's time. That of parts adds up."""
    return sum(width(char) for char in text if not char.isspace())


def clean(text: str) -> str:
    """Return `text` on one line: runs of whitespace as one space, none at the ends, no control characters."""
    words = " ".join(text.split())
    return "".join(char for char in words if unicodedata.category(char) != "Cc").strip()


def units(text: str) -> tuple[str, ...]:
    """Return `text` cut wherever a line may break; joined again they are `text`.

    A word keeps the whitespace before it. Chinese and Japanese break between characters, save before closing
    and after opening punctuation; Korean breaks between words, as its readers expect. A dash that stands alone
    stays with the word after it, punctuation that stands alone with the word that it belongs to.
    """
    found: list[str] = []
    start = 0
    for at, (previous, char) in enumerate(pairwise(text), 1):
        if _may_break(previous, char) and text[start:at].strip():
            if _leans_back(text[start:at]) and found:
                found[-1] += text[start:at]
                start = at
            elif not _leans_forward(text[start:at]):
                found.append(text[start:at])
                start = at
    rest = text[start:]
    if found and (not rest.strip() or _leans_back(rest)):
        found[-1] += rest
    elif rest:
        found.append(rest)
    return tuple(found)


def cut(unit: str, limit: int) -> tuple[str, ...]:
    """Return `unit` in as few parts as have at most `limit` columns (2 or more) beside the whitespace at their ends.

    It is cut after a hyphen or a slash where one is far enough on, else before a syllable, as even as may be; what is
    drawn as one character stays whole.
    """
    parts: list[str] = []
    while columns(unit.strip()) > limit:
        wide = columns(unit.strip())
        even = -(-wide // -(-wide // limit))
        has_marks = any(mark in unit for mark in _CUT_AFTER)
        head = ""
        for char in _drawn(unit, limit):
            if head.strip() and columns((head + char).strip()) > (limit if has_marks else even):
                break
            head += char
        at = _cut_at(unit, len(head), limit)
        parts.append(unit[:at])
        unit = unit[at:]
    return (*parts, unit)


def _cut_at(word: str, longest: int, limit: int) -> int:
    """Return where to cut the first part, of at most `longest` characters, from `word`."""
    mark = max((at for at, char in enumerate(word[:longest], 1) if char in _CUT_AFTER), default=0)
    if columns(word[:mark]) * 3 >= limit:
        return mark
    longest = len(word[:longest].rstrip())
    for at in range(longest, longest * 3 // 4, -1):
        if _begins_syllable(word, at):
            # Only if there are no more parts for that.
            rest = columns(word[at:]), columns(word[longest:])
            return at if -(-rest[0] // limit) == -(-rest[1] // limit) else longest
    return longest


def _begins_syllable(word: str, at: int) -> bool:
    """Return whether a syllable begins with the character `at`, as in most languages of Latin or Cyrillic letters."""
    onset = 2 if word[at : at + 2].lower() in _DIGRAPHS else 1
    is_torn = word[at - 1 : at + 1].lower() in _DIGRAPHS
    is_consonant = word[at].isalpha() and not _is_vowel(word[at])
    return is_consonant and not is_torn and _is_vowel(word[at + onset : at + onset + 1])


def _is_vowel(char: str) -> bool:
    return unicodedata.normalize("NFD", char.lower())[:1] in set("aeiouyаеиоуыэюя")  # noqa: RUF001 - Cyrillic is meant


def _drawn(text: str, limit: int) -> Iterator[str]:
    """Yield what of `text` is drawn as one character; its parts where that alone is wider than `limit`."""
    for grapheme in graphemes(text):
        yield from (grapheme,) if columns(grapheme) <= limit else grapheme


def may_break(previous: str, char: str) -> bool:
    """Return whether a line may break between two characters that no space parts, as far as they say."""
    if char in _NEVER_FIRST or unicodedata.category(char) in _CLOSING or clings(previous, char):
        return False
    return unicodedata.category(previous) not in _OPENING


def _may_break(previous: str, char: str) -> bool:
    if char.isspace() or previous.isspace():
        return char.isspace()
    if not may_break(previous, char):
        return False
    return stands_alone(char) or stands_alone(previous) or (previous == "—" and char.isalnum())


def stands_alone(char: str) -> bool:
    """Return whether a line may break on either side of `char`: full-width, but no letter of Korean."""
    return width(char) == 2 and not unicodedata.name(char, "").startswith(("HANGUL", "HALFWIDTH HANGUL"))


def _leans_back(unit: str) -> bool:
    """Return whether `unit` is closing punctuation alone, as in French before "?"."""
    return all(char in "?!:;,.…%»" or unicodedata.category(char) in _CLOSING for char in unit.strip())


def _leans_forward(unit: str) -> bool:
    """Return whether `unit` is an opening bracket or a currency alone, or a dash: a speaker's turn, most likely."""
    bare = unit.strip()
    return bare in DASHES or all(unicodedata.category(char) in _OPENING or char in "$€£¥" for char in bare)
