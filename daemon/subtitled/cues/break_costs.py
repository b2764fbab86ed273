"""How much it disturbs to break a line between two words."""

# ruff: noqa: RUF001 - full-width punctuation, quotes and Cyrillic are meant
from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from subtitled.cues.break_costs_cjk import unspaced_cost
from subtitled.cues.cost import BreakCost
from subtitled.cues.function_words import FunctionWords, listed, words_of
from subtitled.cues.text import DASHES, stands_alone

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ENDS = ".!?…。！？｡؟۔।"
_CLAUSE_ENDS = ";:；：—–…"
_COMMAS = ",，、､،"
_QUOTES = "\"'"
_NUMBER = re.compile(r"[\d.,:/]*\d[\d.,:/]*[%‰°€$£¥]?|[$£€¥] ?\d[\d.,]*")
_NUMBER_WORDS = frozenset(
    listed(
        "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty "
        "thirty forty fifty sixty seventy eighty ninety hundred thousand million billion percent zwei drei vier fünf sechs "
        "sieben acht neun zehn elf zwölf zwanzig dreißig hundert tausend millionen milliarden prozent deux trois quatre cinq sept huit "
        "neuf dix vingt mille millions milliards cent dos tres cuatro cinco seis siete ocho diez cien mil millones millón "
        "due tre quattro cinque sei sette otto nove dieci mila milioni twee drie vier vijf zes acht negen tien miljoen miljard procent "
        "два три четыре пять шесть семь восемь девять десять сто тысяч миллионов процентов"
    )
)
_KO_CONJUNCTIONS = listed("그리고 하지만 그래서 그러나 그런데 그러면 왜냐하면 또는")
_KO_CLAUSE = listed("고 는데 은데 지만 면 서 니까 며 려고 도록")
"""Endings of Korean verbs with which a clause ends."""


def costs(words: Iterable[str], language: str | None) -> Iterator[BreakCost]:
    """Yield what a line break before each word costs, 0 (a sentence begins) to 400; below 0 it is wanted.

    `words` are as `unspaced.words` cuts them, spaces before them; the first has nothing before it.
    """
    little = words_of(language)
    earlier = previous = ""
    for word in words:
        cost = _cost(earlier, previous, word, little) if previous else BreakCost.SENTENCE
        yield cost
        earlier = "" if cost <= BreakCost.SENTENCE else previous
        previous = word


def _ends_sentence(before: str, after: str, little: FunctionWords) -> bool:
    """Return whether a sentence ends with the word `before`, which the word `after` follows."""
    bare = _unquoted(before)
    if bare[-1] not in _ENDS:
        return False
    is_lower = next((char for char in after if char.isalnum()), "").islower()
    return not (bare[-1] in ".…" and is_lower) and not _is_abbreviation(bare, little)


def _cost(earlier: str, before: str, after: str, little: FunctionWords) -> BreakCost:
    """Return the cost between `before` and `after`; `earlier` is the word before them in their sentence, or ""."""
    bare, follows = _unquoted(before), after.strip()
    ends = _ends_sentence(before, after, little)
    if follows[0] in DASHES and len(follows) > 1 and ends:
        return BreakCost.TURN
    if ends:
        return BreakCost.SENTENCE
    if len(bare) > 1 and bare[-1] in _CLAUSE_ENDS:
        return BreakCost.CLAUSE
    if bare[-1] in _COMMAS:
        return BreakCost.COMMA
    if stands_alone(before[-1]) and stands_alone(follows[0]) and after[0].isspace():
        # Whisper, and subtitles in Chinese, have a space in place of a comma.
        return BreakCost.COMMA
    if stands_alone(before[-1]) or stands_alone(follows[0]):
        cost = unspaced_cost(bare, follows)
    else:
        cost = _spaced_cost(earlier.strip(), bare, follows, little)
    # The last word of a clause is not left alone.
    return (
        BreakCost.MODIFIER
        if cost == BreakCost.PLAIN and follows[-1] in _ENDS + _CLAUSE_ENDS + _COMMAS
        else cost
    )


def _spaced_cost(earlier: str, before: str, after: str, little: FunctionWords) -> BreakCost:
    one, two = _tail(before, little), _head(after, little)
    if _is_abbreviation(before, little):
        return BreakCost.LEANING
    if _NUMBER.fullmatch(before):
        return BreakCost.PLAIN if little.is_little(two) else BreakCost.LEANING
    if little.is_little(one):
        return BreakCost.LEANING
    # The first word of a sentence is written like a name.
    if earlier and _is_name(before) and _is_name(after) and not little.has_capital_nouns:
        return BreakCost.LEANING
    if two in little.conjunctions or after.startswith(_KO_CONJUNCTIONS):
        return BreakCost.CONJUNCTION
    if two in little.prepositions or _opens(after):
        return BreakCost.PREPOSITION
    if two in little.trailing:
        return BreakCost.MODIFIER
    if little.begins_phrase(two):
        return BreakCost.PHRASE
    if _letters(earlier) in little.articles or one in _NUMBER_WORDS or _NUMBER.fullmatch(after):
        return BreakCost.MODIFIER
    return (
        BreakCost.CONJUNCTION if _is_hangul(before[-1]) and before.endswith(_KO_CLAUSE) else BreakCost.PLAIN
    )


def _is_abbreviation(word: str, little: FunctionWords) -> bool:
    """Return whether `word` has a full stop that ends no sentence: "Dr.", an initial, an ordinal number."""
    if not word.endswith("."):
        return False
    bare = word[:-1].lstrip("([\"'")
    if bare.isdecimal():
        return little.has_ordinal_stops and len(bare) <= 2
    return bare.lower() in little.abbreviations or (len(bare) == 1 and bare.isupper())


def _is_name(word: str) -> bool:
    """Return whether `word` may be part of a name."""
    letters = word.lstrip("([\"'“‘«")
    return len(letters) > 1 and letters[0].isupper()


def _letters(word: str) -> str:
    return word.strip(" \"'“”‘’«»()[].,;:!?…").lower().replace("’", "'")


def _head(word: str, little: FunctionWords) -> str:
    """Return what `word` is known by when a line would begin with it: of "qu'ils" the "qu'"."""
    letters = _letters(word)
    head = letters[: letters.find("'") + 1]
    return head if little.is_little(head) else letters


def _tail(word: str, little: FunctionWords) -> str:
    """Return what `word` is known by when a line would end with it: of "qu'ils" the "ils"."""
    letters = _letters(word)
    return letters if _head(word, little) == letters else letters[letters.find("'") + 1 :]


def _unquoted(word: str) -> str:
    """Return `word` without the closing quotes and brackets at its end."""
    bare = word.strip()
    while bare and (bare[-1] in _QUOTES or unicodedata.category(bare[-1]) in {"Pe", "Pf"}):
        bare = bare[:-1]
    return bare or word.strip()


def _opens(word: str) -> bool:
    return word[0] in '"“„«' or unicodedata.category(word[0]) == "Ps"


def _is_hangul(char: str) -> bool:
    return "\uac00" <= char <= "\ud7a3"
