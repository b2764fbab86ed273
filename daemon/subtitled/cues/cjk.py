"""Words of scripts without spaces: Chinese, Japanese, Thai."""

from __future__ import annotations

import re
from bisect import bisect_left
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

import budoux

from subtitled.cues.text import may_break_between, time_weight, units
from subtitled.cues.text_width import width

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_KANA = re.compile("[\u3041-\u30fa\u30fc-\u30ff\uff66-\uff9f]")
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_THAI = re.compile("[\u0e00-\u0e7f]")
_TRADITIONAL = frozenset("這們個說來時國會後對開學過還沒為麼點裡種樣嗎頭經長動實間問現見發與")
_SIMPLIFIED = frozenset("这们个说来时国会后对开学过还没为么点里种样吗头经长动实间问现见发与")
_WORD_COLUMNS = 8
"""A Chinese word is rarely longer than four characters."""


def words(text: str, language: str | None, timed: Sequence[int] = ()) -> tuple[str, ...]:
    """Return `text` split into words, each with the whitespace before it; joined they are `text`.

    BudouX estimates the ends of words in Chinese, Japanese and Thai, always the same for the same text; a Latin word or a number
    stays whole. `timed` are the weights of the model's timed words, if these spell the text: in these scripts they are tokens,
    mostly shorter than a word, and none of them is split.
    """
    parser = _parser_name(text, language)
    if parser is None:
        return units(text)
    ends = set(accumulate(len(chunk) for chunk in _parser(parser).parse(text)))
    pieces = tuple(_joined(_pieces(text, is_thai=parser == "th"), ends))
    return tuple(_without_split_tokens(text, pieces, timed)) if timed else pieces


def _without_split_tokens(text: str, pieces: Iterable[str], timed: Sequence[int]) -> Iterator[str]:
    """Yield `text` split as `pieces` are, but around a timed word wherever a piece ends inside it."""
    edges = [0, *accumulate(timed)]
    ends: set[int] = set()
    for end in accumulate(time_weight(piece) for piece in pieces):
        at = bisect_left(edges, end)
        is_inside = at < len(edges) and edges[at] != end and edges[at] - edges[at - 1] <= _WORD_COLUMNS
        ends.update(edges[at - 1 : at + 1] if is_inside else [end])
    before = start = 0
    for at, char in enumerate(text):
        is_end = before in ends and text[start:at].strip()
        if is_end and (char.isspace() or (width(char) and may_break_between(text[at - 1], char))):
            yield text[start:at]
            start = at
        before += time_weight(char)
    yield text[start:]


def _pieces(text: str, *, is_thai: bool) -> Iterator[str]:
    """Yield the units of `text`; Thai is split before each character that may begin a word."""
    for unit in units(text):
        if not is_thai or not _THAI.search(unit):
            yield unit
            continue
        start = 0
        for at in range(1, len(unit)):
            if (
                _THAI.match(unit[at])
                and _THAI.match(unit[at - 1])
                and may_break_between(unit[at - 1], unit[at])
            ):
                yield unit[start:at]
                start = at
        yield unit[start:]


def _joined(pieces: Iterator[str], ends: set[int]) -> Iterator[str]:
    """Yield `pieces`, joined where no word ends between two of them."""
    current = ""
    at = 0
    for piece in pieces:
        if current and at not in ends and not piece[0].isspace():
            current += piece
        else:
            if current:
                yield current
            current = piece
        at += len(piece)
    if current:
        yield current


def _parser_name(text: str, language: str | None) -> str | None:
    if text.isascii():
        return None
    if _KANA.search(text) or (language == "ja" and _HAN.search(text)):
        return "ja"
    if _HAN.search(text):
        lead = traditional_lead(text)
        is_simplified = any(char in _SIMPLIFIED for char in text)
        return "zh-hant" if lead > 0 or (language == "yue" and not is_simplified) else "zh-hans"
    return "th" if _THAI.search(text) else None


def traditional_lead(text: str) -> int:
    """Return how many more frequent characters of a text are Traditional than simplified; below 0: it is simplified."""
    return sum((char in _TRADITIONAL) - (char in _SIMPLIFIED) for char in text)


@cache
def _parser(name: str) -> budoux.Parser:
    """Return BudouX's parser; its weights (65 kB of JSON in its package) are read once."""
    match name:
        case "ja":
            return budoux.load_default_japanese_parser()
        case "zh-hant":
            return budoux.load_default_traditional_chinese_parser()
        case "th":
            return budoux.load_default_thai_parser()
        case _:
            return budoux.load_default_simplified_chinese_parser()
