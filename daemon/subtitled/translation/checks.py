"""Whether a text is the translation of a sentence, as far as that can be seen without knowing both languages."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

from subtitled.config.checks import OPENCC_REMEDY
from subtitled.core.translation import SentenceTranslation
from subtitled.cues.chinese import convert_text
from subtitled.cues.cjk import traditional_lead
from subtitled.cues.function_words import function_words
from subtitled.cues.text import DASHES, begins_with_negative_number, clean, time_weight
from subtitled.languages import chinese_of, code_of
from subtitled.translation.glossary import contains

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from subtitled.core.translation import TranslationRequest

NOT_ANSWERED = "the model returned no translation"
_MAX_GROWTH = 4
_SPARE_COLUMNS = 40
"""A translation is at most `_MAX_GROWTH` times as wide as its sentence, and so much wider."""
_MIN_SHRUNK_COLUMNS = 60
_MAX_SHRINKAGE = 6
_DASHES = "".join(DASHES) + " "
_MIN_ECHO_WORDS = 3
_MIN_FUNCTION_WORDS = 3
_MAX_SPELT = 12
"""Numbers up to this one are often spelt in words."""
_NUMBER = re.compile(r"\d+(?:[.,'\u00a0\u202f]\d{3})*(?:[.,]\d+)?")
_WORD = re.compile(r"[^\W\d_]+")
_MAGNITUDES = re.compile(
    "[百千万萬亿億兆만억천]|thousand|million|billion|mill?|mil\\b|mille|mio|mrd|milliard|tausend|тыс|милли|مليون|ألف|हज़ार|लाख|करोड़|"
    "ribu|juta|nghìn|triệu|พัน|หมื่น|ล้าน",
    re.IGNORECASE,
)
_CHINESE_NUMERALS = re.compile("[一二三四五六七八九十百千两兩〇零]{2,}|十")
_SCRIPTS = {
    "Latn": ("LATIN",), "Cyrl": ("CYRILLIC",), "Grek": ("GREEK",), "Arab": ("ARABIC",), "Hebr": ("HEBREW",),
    "Deva": ("DEVANAGARI",), "Beng": ("BENGALI",), "Guru": ("GURMUKHI",), "Gujr": ("GUJARATI",), "Orya": ("ORIYA",),
    "Taml": ("TAMIL",), "Telu": ("TELUGU",), "Knda": ("KANNADA",), "Mlym": ("MALAYALAM",), "Sinh": ("SINHALA",),
    "Thai": ("THAI",), "Laoo": ("LAO",), "Tibt": ("TIBETAN",), "Mymr": ("MYANMAR",), "Khmr": ("KHMER",),
    "Geor": ("GEORGIAN",), "Armn": ("ARMENIAN",), "Ethi": ("ETHIOPIC",), "Hans": ("CJK", "BOPOMOFO"),
    "Hant": ("CJK", "BOPOMOFO"), "Jpan": ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK", "HALFWIDTH"),
    "Kore": ("HANGUL", "CJK"),
}  # fmt: skip
"""First words of the Unicode names of a script's letters, by the script's ISO 15924 code."""
_BOTH_SCRIPTS = frozenset("sr bs uz az kk tg tk tt mn ky ku".split())  # noqa: SIM905 - a list in a word
"""Languages written in Latin and Cyrillic letters."""


def checked(
    request: TranslationRequest, texts: Sequence[str | None], faults: Sequence[str] = ()
) -> list[SentenceTranslation]:
    """Return the results for the sentences of a request, of which a model made `texts`; None: it made none.

    `faults` has the reason for each sentence without a text, or is empty.

    A text that is no translation becomes the original sentence with a `problem`.
    """
    variant = chinese_of(request.target)
    is_chinese = code_of(request.target) in {"zh", "yue"}
    results: list[SentenceTranslation] = []
    for at, (source, made) in enumerate(zip(request.sentences, texts, strict=True)):
        text = clean(made or "")
        if source[0] not in DASHES and not begins_with_negative_number(text):
            text = text.lstrip(_DASHES)
        if is_chinese:
            text = convert_text(text, variant)
        fault = (faults[at] if faults else "") or NOT_ANSWERED
        problem = fault if made is None else problem_of(source, text, request)
        if problem:
            results.append(SentenceTranslation.untranslated(source, problem))
        else:
            results.append(SentenceTranslation(text=text, warning=warning_of(source, text, request)))
    return results


def problem_of(source: str, text: str, request: TranslationRequest) -> str:
    """Return why `text` cannot be the translation of `source`; "" if it can."""
    if not text.strip():
        return "the translation is empty"
    before, after = time_weight(source), time_weight(text)
    if after > before * _MAX_GROWTH + _SPARE_COLUMNS:
        return f"the translation is {after} columns wide, its sentence {before}"
    if before >= _MIN_SHRUNK_COLUMNS and after * _MAX_SHRINKAGE < before:
        return f"the translation is only {after} columns wide, its sentence {before}"
    is_other = code_of(request.source) != code_of(request.target)
    if is_other and _is_echo(source, text):
        return "the model repeated the sentence instead of translating it"
    if not _is_in_script(source, text, request):
        return f"the translation is not in the script of {request.target}"
    if is_other and _has_words_of_source(text, request):
        return f"the translation is in {request.source} instead of {request.target}"
    return ""


def warning_of(source: str, text: str, request: TranslationRequest) -> str:
    """Return what to check in a translation, such as numbers and terms of the glossary that it lacks; "" for nothing."""
    lacking = [f"the number {number}" for number in _lost_numbers(source, text)]
    for term, translation in request.glossary:
        if contains(source, term) and not _has_term(text, translation):
            lacking.append(f'"{translation}" for "{term}"')
    causes = [f"the translation lacks {', '.join(lacking)}"] if lacking else []
    variant = chinese_of(request.target)
    if variant != "off" and (traditional_lead(text) < 0) != (variant == "cn") and traditional_lead(text):
        # OpenCC is not installed, or the text would have been converted.
        causes.append(f"the translation is in the other Chinese characters; install OpenCC: {OPENCC_REMEDY}")
    return "; ".join(causes)[:500]


def _is_echo(source: str, text: str) -> bool:
    """Return whether `text` is the sentence itself, and more than names."""
    words = _WORD.findall(source)
    if [word.casefold() for word in words] != [word.casefold() for word in _WORD.findall(text)]:
        return False
    # Chinese and Japanese have one "word" for a whole clause.
    plain = sum(
        1 if word.isascii() else max(1, time_weight(word) // 4) for word in words if not word[0].isupper()
    )
    return plain >= _MIN_ECHO_WORDS


def _is_in_script(source: str, text: str, request: TranslationRequest) -> bool:
    """Return whether the letters of `text` are mostly those of the target language, words of the source not counted."""
    expected = scripts(request.target)
    if not expected:
        return True
    kept = {word.casefold() for word in _WORD.findall(source)}
    for _, translation in request.glossary:
        kept |= {word.casefold() for word in _WORD.findall(translation)}
    own = other = kana = han = hangul = 0
    for word in _WORD.findall(text):
        is_kept = word.casefold() in kept
        for char in word:
            name = _alphabet_of(char)
            han += name == "CJK"
            kana += name in {"HIRAGANA", "KATAKANA"}
            hangul += name == "HANGUL"
            if name in expected:
                own += 1
            elif not is_kept and char.isalpha():
                other += 1
    match code_of(request.target):
        case "ja":
            is_right_kind = kana > 0 or han <= 10
        case "ko":
            is_right_kind = hangul > 0 or han <= 4
        case "zh" | "yue":
            is_right_kind = kana * 5 <= han
        case _:
            is_right_kind = True
    return is_right_kind and other <= own


@lru_cache(8192)
def _alphabet_of(char: str) -> str:
    """Return the first word of a letter's Unicode name."""
    return unicodedata.name(char, "?").split()[0]


@lru_cache
def scripts(target: str) -> frozenset[str]:
    """Return the first words of the Unicode names of a language's letters; empty if its script is not known."""
    from langcodes import Language  # its tables take 0.1 s

    try:
        script = Language.get(target).maximize().script or ""
    except ValueError:
        return frozenset()
    names = frozenset(_SCRIPTS.get(script, ()))
    primary = target.partition("-")[0].lower()
    return names | {"LATIN", "CYRILLIC"} if primary in _BOTH_SCRIPTS and "-" not in target else names


def _has_words_of_source(text: str, request: TranslationRequest) -> bool:
    """Return whether `text` is in the source language, by function words of languages in one script."""
    if scripts(request.source) != scripts(request.target):
        return False
    before, after = _function_words(request.source), _function_words(request.target)
    if not before or not after:
        return False
    words = [word.casefold() for word in _WORD.findall(text)]
    theirs = sum(word in before and word not in after for word in words)
    ours = sum(word in after and word not in before for word in words)
    return theirs >= _MIN_FUNCTION_WORDS and theirs > 3 * ours


@lru_cache
def _function_words(language: str) -> frozenset[str]:
    known = function_words(language)
    return known.conjunctions | known.prepositions | known.articles | known.leaning


def _lost_numbers(source: str, text: str) -> Iterator[str]:
    found = {value for _, value in _numbers(text)}
    has_magnitude = _MAGNITUDES.search(text) is not None or _MAGNITUDES.search(source) is not None
    for number, value in _numbers(source):
        if value in found or (value.isdecimal() and int(value) <= _MAX_SPELT):
            continue
        digits = value.strip("0")
        is_scaled = has_magnitude and any(other.strip("0") == digits for other in found)
        if not is_scaled and not _CHINESE_NUMERALS.search(text):
            yield number


def _numbers(text: str) -> Iterator[tuple[str, str]]:
    """Yield the numbers of a text: as written, and as digits alone, since languages separate thousands and decimals differently."""
    plain = "".join(
        str(unicodedata.digit(char)) if char.isdecimal() and not char.isascii() else char for char in text
    )
    for found in _NUMBER.finditer(plain):
        yield found[0], "".join(filter(str.isdecimal, found[0])).lstrip("0") or "0"


def _has_term(text: str, translation: str) -> bool:
    """Return whether a text has a term; its end may be inflected."""
    folded, term = text.casefold(), translation.casefold()
    return term in folded or (term.isascii() and len(term) > 5 and term[:-2] in folded)
