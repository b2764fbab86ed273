"""The cost of a line break between two words."""

# ruff: noqa: RUF001 - full-width punctuation, quotes and Cyrillic are meant
from __future__ import annotations

import re
import unicodedata
from enum import IntEnum
from typing import TYPE_CHECKING

from subtitled.cues.function_words import FunctionWords, function_words, listed
from subtitled.cues.text import DASHES, is_unspaced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class BreakCost(IntEnum):
    """The cost of a break between two words, by their grammatical relation.

    The order follows the Netflix Timed Text Style Guides, "Line Treatment"; the numbers were chosen by hand, on the examples of
    tests/unit/test_layout_examples.py.
    """

    TURN = -60
    """Before a dialogue dash: each speaker preferably has a separate line."""
    SENTENCE = 0
    CLAUSE = 10
    COMMA = 20
    CONJUNCTION = 35
    """Before a conjunction or a relative pronoun."""
    PREPOSITION = 50
    PHRASE = 60
    """Before an article, a pronoun, an auxiliary: a phrase of the sentence begins."""
    PLAIN = 75
    MODIFIER = 130
    """Between an adjective and its noun, a number and the words after its unit."""
    BOUND = 200
    """Between a word and the word it belongs to: after an article or a preposition, inside a name, after a number."""
    INSIDE = 400
    """Inside a word that is wider than a line."""


_ENDS = ".!?…。！？｡؟۔।॥።။។։"
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
"""Korean verb endings that end a clause."""
_MAX_WORD_CHARS = 200
"""Only the ends of longer words are examined, because the patterns below take quadratic time."""
_STOPS = ".!?…。！？｡;:；：,，、"
_MEASURED = re.compile(r"[\d一二三四五六七八九十百千万萬亿億零两兩几幾这這那每第半]$")
_ZH_BACK = frozenset(
    "的地得了着过吗呢吧啊呀嘛里上下中内外们个儿年月日号点分秒钟块元次位条张只名些岁倍度米著過嗎裡內們個兒號點鐘塊條張隻歲人"
)
"""Particles, suffixes and measure words: no line begins with one of them."""
_ZH_MEASURES = frozenset("个年月日号点分秒钟块元次位条张只名些岁倍度米個號點鐘塊條張隻歲")
_ZH_PARTICLES = frozenset("的地得")
_ZH_FORWARD = frozenset(
    "不没沒很最更太都也就还還又再在把被从從对對向给給跟和与與或到为為用是有会會能要去让讓使将將于於以而且但之该該各"
)
"""Adverbs, prepositions and auxiliaries of one character: no line ends with one of them."""
_ZH_CONJUNCTIONS = listed(
    "但是 但 可是 因为 因為 所以 而且 如果 或者 然后 然後 虽然 雖然 不过 不過 于是 於是 并且 並且 因此 直到 同时 同時 那么 那麼 "
    "除非 只要 只有 即使 尽管 儘管"
)
_ZH_PREPOSITIONS = frozenset(
    listed("在 从 從 对 對 把 被 跟 和 与 與 向 给 給 关于 關於 按照 根据 根據 为了 為了")
)
_ZH_PRONOUNS = frozenset(
    listed(
        "我 你 您 他 她 它 我们 你们 他们 她们 它们 我們 你們 他們 她們 它們 大家 这个 那个 這個 那個 这些 那些 這些"
    )
)
_JA_CONJUNCTIONS = listed(
    "しかし でも だから そして それで それでも また ただ つまり なぜなら けれども ところが"
)
_JA_BACK = listed("いう いった いって いえ よう")
_JA_CLAUSE = listed("ので から けど けれど ければ ながら たら なら て で ば し")
_JA_PARTICLES = listed("は が を に へ と も まで より")


def costs(words: Iterable[str], language: str | None) -> Iterator[BreakCost]:
    """Yield the cost of a line break before each word, 0 (a sentence begins) to 400; a cost below 0 favours a break.

    `words` are those of `cjk.words`, with the space before each.
    """
    known = function_words(language)
    earlier = previous = ""
    for whole in words:
        word = whole if len(whole) <= _MAX_WORD_CHARS else whole[:10] + whole[-10:]
        cost = _cost(earlier, previous, word, known) if previous else BreakCost.SENTENCE
        yield cost
        earlier = "" if cost <= BreakCost.SENTENCE else previous
        previous = word


def _ends_sentence(before: str, after: str, known: FunctionWords) -> bool:
    """Return whether a sentence ends between the words `before` and `after`."""
    bare = _unquoted(before)
    if bare[-1] not in _ENDS:
        return False
    is_lower = next((char for char in after if char.isalnum()), "").islower()
    return not (bare[-1] in ".…" and is_lower) and not _is_abbreviation(bare, known)


def _cost(earlier: str, before: str, after: str, known: FunctionWords) -> BreakCost:
    """Return the cost between `before` and `after`; `earlier` is the word before them in their sentence, or ""."""
    bare, follows = _unquoted(before), after.strip()
    ends = _ends_sentence(before, after, known)
    if follows[0] in DASHES and len(follows) > 1 and ends:
        return BreakCost.TURN
    if ends:
        return BreakCost.SENTENCE
    if len(bare) > 1 and bare[-1] in _CLAUSE_ENDS:
        return BreakCost.CLAUSE
    if bare[-1] in _COMMAS:
        return BreakCost.COMMA
    if is_unspaced(before[-1]) and is_unspaced(follows[0]) and after[0].isspace():
        # Whisper and Chinese subtitles write a space in place of a comma.
        return BreakCost.COMMA
    if is_unspaced(before[-1]) or is_unspaced(follows[0]):
        cost = _unspaced_cost(bare, follows)
    else:
        cost = _spaced_cost(earlier.strip(), bare, follows, known)
    # The last word of a clause does not stand alone on a line.
    return (
        BreakCost.MODIFIER
        if cost == BreakCost.PLAIN and follows[-1] in _ENDS + _CLAUSE_ENDS + _COMMAS
        else cost
    )


def _spaced_cost(earlier: str, before: str, after: str, known: FunctionWords) -> BreakCost:
    one, two = _tail(before, known), _head(after, known)
    if _is_abbreviation(before, known):
        return BreakCost.BOUND
    if _NUMBER.fullmatch(before):
        return BreakCost.PLAIN if known.is_function_word(two) else BreakCost.BOUND
    if known.is_function_word(one):
        return BreakCost.BOUND
    # The first word of a sentence is capitalised like a name.
    if earlier and _is_name(before) and _is_name(after) and not known.has_capital_nouns:
        return BreakCost.BOUND
    if two in known.conjunctions or after.startswith(_KO_CONJUNCTIONS):
        return BreakCost.CONJUNCTION
    if two in known.prepositions or _opens(after):
        return BreakCost.PREPOSITION
    if two in known.trailing:
        return BreakCost.MODIFIER
    if known.begins_phrase(two):
        return BreakCost.PHRASE
    if _letters(earlier) in known.articles or one in _NUMBER_WORDS or _NUMBER.fullmatch(after):
        return BreakCost.MODIFIER
    return (
        BreakCost.CONJUNCTION if _is_hangul(before[-1]) and before.endswith(_KO_CLAUSE) else BreakCost.PLAIN
    )


def _is_abbreviation(word: str, known: FunctionWords) -> bool:
    """Return whether the full stop of `word` does not end a sentence: "Dr.", an initial, an ordinal number."""
    if not word.endswith("."):
        return False
    bare = word[:-1].lstrip("([\"'")
    if bare.isdecimal():
        return known.has_ordinal_stops and len(bare) <= 2
    return bare.lower() in known.abbreviations or (len(bare) == 1 and bare.isupper())


def _is_name(word: str) -> bool:
    """Return whether `word` may be part of a name."""
    letters = word.lstrip("([\"'“‘«")
    return len(letters) > 1 and letters[0].isupper()


def _letters(word: str) -> str:
    return word.strip(" \"'“”‘’«»()[].,;:!?…").lower().replace("’", "'")


def _head(word: str, known: FunctionWords) -> str:
    """Return the part of `word` that decides whether a line may begin with it: the "qu'" of "qu'ils"."""
    letters = _letters(word)
    head = letters[: letters.find("'") + 1]
    return head if known.is_function_word(head) else letters


def _tail(word: str, known: FunctionWords) -> str:
    """Return the part of `word` that decides whether a line may end with it: the "ils" of "qu'ils"."""
    letters = _letters(word)
    return letters if _head(word, known) == letters else letters[letters.find("'") + 1 :]


def _unquoted(word: str) -> str:
    """Return `word` without the closing quotes and brackets at its end."""
    end = len(word.rstrip())
    while end and (word[end - 1] in _QUOTES or unicodedata.category(word[end - 1]) in {"Pe", "Pf"}):
        end -= 1
    return word[:end].strip() or word.strip()


def _opens(word: str) -> bool:
    return word[0] in '"“„«' or unicodedata.category(word[0]) == "Ps"


def _is_hangul(char: str) -> bool:
    return "\uac00" <= char <= "\ud7a3"


def _unspaced_cost(before: str, after: str) -> BreakCost:
    """Return the cost between two words of Chinese or Japanese, or one of them and a Latin word."""
    word = after.rstrip(_STOPS)
    if after.startswith(_ZH_CONJUNCTIONS + _JA_CONJUNCTIONS):
        return BreakCost.CONJUNCTION
    if (
        word.startswith(_JA_BACK)
        or word in _ZH_BACK
        or before in _ZH_FORWARD
        or before in _ZH_MEASURES
        or _MEASURED.search(before)
    ):
        return BreakCost.BOUND
    if before in _ZH_PRONOUNS or before in _ZH_PARTICLES:
        return BreakCost.MODIFIER
    if "\u3041" <= before[-1] <= "\u30ff":
        if before.endswith(_JA_CLAUSE):
            return BreakCost.CONJUNCTION
        if before.endswith(_JA_PARTICLES):
            return BreakCost.PREPOSITION
        return BreakCost.MODIFIER if before[-1] in "のないたる" else BreakCost.PLAIN
    if len(before) == 1 and not before.isascii():
        # Most likely a verb, and the next word belongs to it: 写在, 送给.
        return BreakCost.MODIFIER
    if word in _ZH_PREPOSITIONS:
        return BreakCost.PREPOSITION
    return BreakCost.PHRASE if word in _ZH_PRONOUNS else BreakCost.PLAIN
