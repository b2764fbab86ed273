"""How much it disturbs to break a line of Chinese or Japanese between two words."""

from __future__ import annotations

import re

from subtitled.cues.cost import BreakCost
from subtitled.cues.function_words import listed

_STOPS = ".!?…。！？｡;:；：,，、"  # noqa: RUF001 - full-width punctuation is meant
_MEASURED = re.compile(r"[\d一二三四五六七八九十百千万萬亿億零两兩几幾这這那每第半]$")
_ZH_BACK = frozenset(
    "的地得了着过吗呢吧啊呀嘛里上下中内外们个儿年月日号点分秒钟块元次位条张只名些岁倍度米著過嗎裡內們個兒號點鐘塊條張隻歲人"
)
"""Particles, suffixes and measure words: no line begins with one of them alone."""
_ZH_MEASURES = frozenset("个年月日号点分秒钟块元次位条张只名些岁倍度米個號點鐘塊條張隻歲")
_ZH_PARTICLES = frozenset("的地得")
_ZH_FORWARD = frozenset(
    "不没沒很最更太都也就还還又再在把被从從对對向给給跟和与與或到为為用是有会會能要去让讓使将將于於以而且但之该該各"
)
"""Adverbs, prepositions and auxiliaries of one character: no line ends with one of them alone."""
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


def unspaced_cost(before: str, after: str) -> BreakCost:
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
        return BreakCost.LEANING
    if before in _ZH_PRONOUNS or before in _ZH_PARTICLES:
        return BreakCost.MODIFIER
    if "\u3041" <= before[-1] <= "\u30ff":
        if before.endswith(_JA_CLAUSE):
            return BreakCost.CONJUNCTION
        if before.endswith(_JA_PARTICLES):
            return BreakCost.PREPOSITION
        return BreakCost.MODIFIER if before[-1] in "のないたる" else BreakCost.PLAIN
    if len(before) == 1 and not before.isascii():
        # A verb, most likely, and what follows belongs to it: 写在, 送给.
        return BreakCost.MODIFIER
    if word in _ZH_PREPOSITIONS:
        return BreakCost.PREPOSITION
    return BreakCost.PHRASE if word in _ZH_PRONOUNS else BreakCost.PLAIN
