"""Chinese text in the characters of Taiwan, Hong Kong or the mainland, with full-width punctuation.

A variant changes characters only: 文件 and 社区 become 文件 and 社區, never 檔案 and 社群. `tw+words` and `cn+words` replace words
too, as OpenCC lists them. Text that is written in the target's script already stays as it is.
"""

# ruff: noqa: RUF001 - full-width punctuation is meant
from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from subtitled.core.transcription import Word
    from subtitled.cues.phrases import MediaPhrase
    from subtitled.cues.transcript import SegmentTranscript, Transcript

LANGUAGES = frozenset({"zh", "yue"})
"""Whisper's codes of the languages written in Chinese characters alone."""

_CONVERSIONS = {"tw": "s2tw", "tw+words": "s2twp", "hk": "s2hk", "cn": "tw2s", "cn+words": "tw2sp"}
"""The configuration of OpenCC for each variant."""
_TO_SIMPLIFIED = frozenset({"cn", "cn+words"})

# What OpenCC 0.1.7 converts wrongly, mostly characters that are surnames or stand in both scripts.
_TITLES = "先生|女士|小姐|太太|老师|老師|教授|医生|醫生|经理|經理|主任|同学|同學|律师|律師|师傅|師傅|某"
_CORRECTIONS = (
    (r"不准(?![确確时時备備])", "不准"),
    (rf"(?<=姓)[范余涂朴于云谷征]|[范余涂朴于云谷征](?={_TITLES})", ""),
    (r"(?<=[子辛乙丁己癸])丑(?=[时時年寅条條])", "丑"),
    (r"冲(?=咖啡|茶|泡|牛奶|奶粉)", "沖"),
    (r"(?<=[很好犯太])困(?=[，。！？\s]|$)", "睏"),
    (r"家具", "家具"),
    (r"喂(?=[你，,！!？?您、 ]|$)", "喂"),
    (r"喂(?=[猫狗鸡鱼鸟马牛羊猪饭奶食养])", "餵"),
    (r"发霉", "發霉"),
    (r"倒霉", "倒霉"),
    (r"胡同", "胡同"),
)
"""Each pattern with its correct form; "" for the text itself."""
_CORRECTION = re.compile("|".join(f"({pattern})" for pattern, _ in _CORRECTIONS))

_HAN = r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_FULL_WIDTH = str.maketrans(",.?!:;()", "，。？！：；（）")
_PUNCTUATION = re.compile(
    rf"(?<={_HAN})[,?!:;]+|(?<={_HAN}[”」』）》])[,?!:;]+|(?<={_HAN})\.(?![.\w])"
    rf"|(?<=\w)[,?!;](?=\s*{_HAN})|\((?={_HAN})|(?<={_HAN})\)"
)
_SPACE_AFTER = re.compile(r"(?<=[，。？！：；（）、])[ \t]+")


def is_installed() -> bool:
    """Return whether the OpenCC package is installed."""
    return find_spec("opencc") is not None


def in_variant(transcript: Transcript, variant: str) -> Transcript:
    """Return `transcript` with the Chinese of its phrases in a variant (`subtitle.messages.Chinese`); its cues stay as they are.

    Punctuation between Chinese characters becomes full-width, also with the variant "off". Other languages (Japanese has its own
    characters) and translations are unchanged. OpenCC must be installed, unless the variant is "off".
    """
    if transcript.task == "translate":
        return transcript
    chinese = [segment for segment in transcript.segments if segment.language in LANGUAGES]
    if not chinese:
        return transcript
    is_simplified = variant != "off" and _is_simplified("".join(map(_text, chinese)))
    segments = tuple(
        replace(segment, phrases=convert(segment.phrases, variant, is_simplified=is_simplified))
        if segment.language in LANGUAGES
        else segment
        for segment in transcript.segments
    )
    return replace(transcript, segments=segments, chinese=transcript.chinese if variant == "off" else variant)


def convert(
    phrases: Iterable[MediaPhrase], variant: str, *, is_simplified: bool = True
) -> tuple[MediaPhrase, ...]:
    """Return `phrases`, with their words, in a variant; "off" changes only punctuation.

    A word keeps its times, and gets its share of the converted text. `is_simplified` is the script of the file, which decides for
    phrases that are the same in both. OpenCC must be installed, unless the variant is "off".
    """
    return tuple(
        replace(
            phrase,
            text=_punctuated(_converted(phrase.text, variant, is_simplified=is_simplified)),
            words=_words(phrase.words, variant, is_simplified=is_simplified),
        )
        for phrase in phrases
    )


def convert_text(text: str, variant: str) -> str:
    """Return Chinese text in a variant, with full-width punctuation; only the latter if OpenCC is not installed."""
    if variant != "off" and is_installed():
        text = _converted(text, variant, is_simplified=True)
    return _punctuated(text)


def _words(words: tuple[Word, ...], variant: str, *, is_simplified: bool) -> tuple[Word, ...]:
    """Return `words` with their shares of the converted text: with tw+words, 内存 becomes three characters."""
    text = "".join(word.text for word in words)
    whole = _converted(text, variant, is_simplified=is_simplified)
    ends = accumulate(len(word.text) for word in words)
    if len(whole) != len(text):
        ends = accumulate(
            (len(_converted(text[:end], variant, is_simplified=is_simplified)) for end in ends), max
        )
    bounds = [0, *(min(end, len(whole)) for end in ends)]
    if words:
        bounds[-1] = len(whole)
    # Only spaces after punctuation are removed, so positions are counted without them.
    marked = _SPACE_AFTER.sub(lambda found: "\0" * len(found[0]), _PUNCTUATION.sub(_full_width, whole))
    return tuple(
        replace(word, text=marked[start:end].replace("\0", ""))
        for word, (start, end) in zip(words, pairwise(bounds), strict=True)
    )


def _punctuated(text: str) -> str:
    """Return `text` with full-width punctuation between Chinese characters."""
    return _SPACE_AFTER.sub("", _PUNCTUATION.sub(_full_width, text))


def _full_width(found: re.Match[str]) -> str:
    return found[0].translate(_FULL_WIDTH)


def _converted(text: str, variant: str, *, is_simplified: bool) -> str:
    if variant == "off" or not text:
        return text
    only_simplified, only_traditional = _scripts()
    has_simplified = any(char in only_simplified for char in text)
    has_traditional = any(char in only_traditional for char in text)
    if variant in _TO_SIMPLIFIED:
        return _convert(text, variant) if has_traditional else text
    if not has_simplified and (has_traditional or not is_simplified):
        return text
    if not is_simplified and _traditional_share(text) > 0.5:
        # A Traditional phrase with single simplified characters: the others stay.
        return "".join(_convert(char, variant) if char in only_simplified else char for char in text)
    converted, at = "", 0
    for found in _CORRECTION.finditer(text):
        _, correct = _CORRECTIONS[(found.lastindex or 1) - 1]
        converted += _convert(text[at : found.start()], variant) + (correct or found[0])
        at = found.end()
    return converted + _convert(text[at:], variant)


def _text(segment: SegmentTranscript) -> str:
    return "".join(phrase.text for phrase in segment.phrases)


def _is_simplified(text: str) -> bool:
    """Return whether a file is mostly in simplified characters."""
    return _traditional_share(text) < 0.5


def _traditional_share(text: str) -> float:
    """Return the share of Traditional characters among those that exist in one script only; 0 without any."""
    only_simplified, only_traditional = _scripts()
    traditional = sum(char in only_traditional for char in text)
    simplified = sum(char in only_simplified for char in text)
    return traditional / (traditional + simplified) if traditional else 0.0


@lru_cache
def _scripts() -> tuple[frozenset[str], frozenset[str]]:
    """Return the characters that exist in simplified text only, and in Traditional text only."""
    chars = [chr(code) for code in range(0x4E00, 0xA000)]

    def changed(name: str) -> frozenset[str]:
        converted = _converter(name).convert("\n".join(chars)).split("\n")
        return frozenset(one for one, other in zip(chars, converted, strict=True) if one != other)

    simplified, traditional = changed("s2t") - _IN_BOTH, changed("t2s") - _IN_BOTH
    return simplified - traditional, traditional - simplified


_IN_BOTH = frozenset(
    "后里干面谷范余丑斗系只准几云松台复征制志致冲克卷困姜家游咸向回合升仆伙佣借出划刮卜占厘周喂夸奸娘尸岩并幸弦彩愈戚才"
    "扎托扣折据采旋昆曲朱朴杆杰板栗梁欲沈注泄涂涌淀熏症秋秘筑累胡荐蒙蔑表赞迹郁雇霉御舍千丰万与术吁吃于了么宁党种蜡"
    "着著乾藉瞭夥麼痠污叹苏虫适杯暗床峰群裡裏啟啓爲為台臺衆眾綫線麵佔傢鬨噁嚐妆妝岳弔恆慄捨摺攷曆"
)
"""Characters that stand in text of both scripts, or are variants, and so decide nothing."""


def _convert(text: str, variant: str) -> str:
    found: str = _converter(_CONVERSIONS[variant]).convert(text)
    return found


@lru_cache
def _converter(name: str) -> Any:
    """Return OpenCC's converter, which takes 0.1 s to load; thread-safe."""
    from opencc import OpenCC

    return OpenCC(name)
