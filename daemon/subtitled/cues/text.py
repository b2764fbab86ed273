"""Where text may be broken, and its share of a phrase's time."""

from __future__ import annotations

import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING

from subtitled.cues.text_width import columns, graphemes, is_combining, width

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEVER_FIRST = frozenset("、。，．：；！？…ーぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ々〜～・％,.:;!?%")  # noqa: RUF001 - Japanese is meant
"""Characters that no line begins with, besides closing brackets (JIS X 4051; W3C jlreq, clreq)."""
DASHES = frozenset("-–—―")  # noqa: RUF001 - dashes are meant
_CLOSING = frozenset({"Pe", "Pf"})
_OPENING = frozenset({"Ps", "Pi"})
_DIGRAPHS = frozenset({"ch", "ck", "ph", "sh", "th", "qu"})
_SPLIT_AFTER = "-–—/_"  # noqa: RUF001 - dashes are meant


def time_weight(text: str) -> int:
    """Return the columns of `text` without whitespace, its share of a phrase's time. Weights of parts add up."""
    return sum(width(char) for char in text if not char.isspace())


def begins_with_negative_number(text: str) -> bool:
    """Return whether a text begins with a negative number: a minus with a digit right after it."""
    return text[:1] in {"-", "–"} and text[1:2].isdigit()  # noqa: RUF001 - a dash is meant


def clean(text: str) -> str:
    """Return `text` on one line: single spaces, none at the ends, no control characters."""
    return " ".join("".join(c for c in text if c.isspace() or unicodedata.category(c) != "Cc").split())


def units(text: str) -> tuple[str, ...]:
    """Return `text` split wherever a line may break; joined they are `text`.

    A word keeps the whitespace before it. Chinese and Japanese break between characters, but not before closing or after
    opening punctuation; Korean breaks between words. A separate dash stays with the word after it, separate punctuation with
    the word it belongs to.
    """
    ends: list[int] = []
    start = 0
    for at, (previous, char) in enumerate(pairwise(text), 1):
        if _is_unit_boundary(previous, char) and text[start:at].strip():
            if _belongs_to_previous(text[start:at]) and ends:
                ends[-1] = start = at
            elif not _belongs_to_next(text[start:at]):
                ends.append(at)
                start = at
    if ends and (not text[start:].strip() or _belongs_to_previous(text[start:])):
        ends[-1] = len(text)
    elif start < len(text):
        ends.append(len(text))
    return tuple(text[begin:end] for begin, end in pairwise([0, *ends]))


def split_word(unit: str, limit: int) -> tuple[str, ...]:
    """Return `unit` in the fewest parts of at most `limit` columns (2 or more), whitespace at their ends not counted.

    It is split after a hyphen or a slash if that fills a third of the limit, else before a syllable, as evenly as possible; a
    grapheme stays whole.
    """
    parts: list[str] = []
    start = 0
    rest = columns(unit.strip())
    last_mark = max(map(unit.rfind, _SPLIT_AFTER))
    while rest > limit or (rest := columns(unit[start:].strip())) > limit:
        most = limit if last_mark >= start else -(-rest // -(-rest // limit))
        end, width = start, 0
        for grapheme in _graphemes_within(unit, start, limit):
            width += columns(grapheme) if width or not grapheme.isspace() else 0
            if width > most and unit[start:end].strip():
                break
            end += len(grapheme)
        end = _split_position(unit, start, end, limit, rest)
        parts.append(unit[start:end])
        rest -= columns(unit[start:end].lstrip()) + unit[end : end + 1].isspace()
        start = end
    return (*parts, unit[start:])


def slices(text: str, limit: int) -> tuple[str, ...]:
    """Return `text` in parts of about `limit` columns, split at spaces if possible; joined they are `text`.

    Much faster than `units`, for text that is too long to be speech.
    """
    ends = [0]
    space = used = 0
    for at, char in enumerate(text):
        if char.isspace():
            space = at
        used += width(char)
        if used >= limit and at > ends[-1]:
            ends.append(space if space > ends[-1] else at)
            used = sum(map(width, text[ends[-1] : at + 1]))
    return tuple(text[start:end] for start, end in pairwise([*ends, len(text)]) if end > start)


def _split_position(word: str, start: int, longest: int, limit: int, rest: int) -> int:
    """Return the end of the part of `word` from `start`, `longest` at most; `rest` is the width from `start` on."""
    head = word[start:longest]
    mark = max((at for at, char in enumerate(head, 1) if char in _SPLIT_AFTER), default=0)
    if columns(head[:mark]) * 3 >= limit:
        return start + mark
    longest = start + len(head.rstrip())
    for at in range(longest, start + (longest - start) * 3 // 4, -1):
        if _begins_syllable(word, at):
            # Only if this adds no part.
            rests = rest - columns(word[start:at].lstrip()), rest - columns(word[start:longest].lstrip())
            return at if -(-rests[0] // limit) == -(-rests[1] // limit) else longest
    return longest


def _begins_syllable(word: str, at: int) -> bool:
    """Return whether a syllable begins at index `at`, by a rule for most languages in Latin or Cyrillic letters."""
    onset = 2 if word[at : at + 2].lower() in _DIGRAPHS else 1
    is_split_digraph = word[at - 1 : at + 1].lower() in _DIGRAPHS
    is_consonant = word[at].isalpha() and not _is_vowel(word[at])
    return is_consonant and not is_split_digraph and _is_vowel(word[at + onset : at + onset + 1])


def _is_vowel(char: str) -> bool:
    return unicodedata.normalize("NFD", char.lower())[:1] in set("aeiouyаеиоуыэюя")  # noqa: RUF001 - Cyrillic is meant


def _graphemes_within(text: str, start: int, limit: int) -> Iterator[str]:
    """Yield the graphemes of `text` from `start` on; the characters of one that is wider than `limit`."""
    for grapheme in graphemes(text, start):
        yield from (grapheme,) if columns(grapheme) <= limit else grapheme


def may_break_between(previous: str, char: str) -> bool:
    """Return whether a line may break between two adjacent characters, by their own properties."""
    if char in _NEVER_FIRST or unicodedata.category(char) in _CLOSING or is_combining(previous, char):
        return False
    return unicodedata.category(previous) not in _OPENING


def _is_unit_boundary(previous: str, char: str) -> bool:
    if char.isspace() or previous.isspace():
        return char.isspace()
    if not may_break_between(previous, char):
        return False
    return is_unspaced(char) or is_unspaced(previous) or (previous == "—" and char.isalnum())


def is_unspaced(char: str) -> bool:
    """Return whether `char` belongs to a script without spaces: full-width, but not a Korean letter."""
    return width(char) == 2 and not unicodedata.name(char, "").startswith(("HANGUL", "HALFWIDTH HANGUL"))


def _belongs_to_previous(unit: str) -> bool:
    """Return whether `unit` is only closing punctuation, as in French before "?"."""
    return all(char in "?!:;,.…%»" or unicodedata.category(char) in _CLOSING for char in unit.strip())


def _belongs_to_next(unit: str) -> bool:
    """Return whether `unit` is only an opening bracket, a currency sign or a dash (most likely a new speaker)."""
    bare = unit.strip()
    return bare in DASHES or all(unicodedata.category(char) in _OPENING or char in "$€£¥" for char in bare)
