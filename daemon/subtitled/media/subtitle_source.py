"""A subtitle file as the source of a job that is translated: its cues, and their language."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from subtitle.errors import OptionError
from subtitle.messages import EditedCue
from subtitle.subtitle_files import parse_subtitles
from subtitled.errors import MediaError
from subtitled.media.media_file import MediaFile
from subtitled.output.paths import split_language

MAX_BYTES = 8 * 2**20
MAX_CUES = 50_000
_SCRIPTS = {"HANGUL": "ko", "THAI": "th", "GREEK": "el", "HEBREW": "he", "DEVANAGARI": "hi", "CYRILLIC": "ru", "ARABIC": "ar"}  # fmt: skip
"""The language that is most often written in a script."""
_COMMON = {
    "en": "the and you that is it to of what this have not with",
    "de": "der die und das ist nicht ich sie ein wir zu es mit",
    "fr": "le la les et est vous que pas je un une dans nous",
    "es": "el los que de es no una por con para está qué lo",
    "it": "il che di non è un una sono per con ma della mi",
    "pt": "o que de não é um uma você para com os isso eu",
    "nl": "de het een en ik je niet dat is van wat we zijn",
    "sv": "och det att är jag inte en som på vi du har",
    "da": "og det er jeg ikke en at på vi du har af",
    "pl": "nie to się na jest że co ja jak w tak mnie",
    "tr": "bir ve bu ne için çok ben değil var mi da",
    "vi": "không là tôi có và anh của một cho này",
    "id": "yang tidak aku dan ini itu kau kita ada di",
}
"""Words that are frequent in a language and in few others."""


def read_subtitle_file(
    path: str, *, root: str | None, language: str | None
) -> tuple[tuple[EditedCue, ...], str]:
    """Return the cues of a subtitle file and their language, which is `language` if given.

    Else it is that of the file's name, unless the text is certainly in another one, or that of the text. Raises MediaError for a file that is none, and for one whose language
    is not certain.
    """
    file = MediaFile(path, root)
    try:
        data = bytearray()
        while len(data) <= MAX_BYTES and (block := file.read(2**20)):
            data += block
    finally:
        file.close()
    if len(data) > MAX_BYTES:
        raise MediaError(f"a subtitle file of more than {MAX_BYTES // 2**20} MiB")
    try:
        cues = parse_subtitles(bytes(data))
    except OptionError as error:
        raise MediaError(str(error)) from error
    if not cues or len(cues) > MAX_CUES:
        raise MediaError(f"the subtitle file has {len(cues)} cues; 1 to {MAX_CUES} are allowed")
    found = language or _language_of(Path(path).name, language_of_text(" ".join(_texts(cues))))
    if found is None:
        raise MediaError(
            "the language of the subtitles is not certain; name it with --language, or in the file's name (talk.en.srt)"
        )
    return cues, found


def language_of_text(text: str) -> str | None:
    """Return the language of a text by its script and its most frequent words, as Whisper's code; None if that is not certain."""
    scripts: Counter[str] = Counter()
    for char in text[:200_000]:
        if char.isalpha():
            scripts[unicodedata.name(char, "").partition(" ")[0].partition("-")[0]] += 1
    letters = scripts.total()
    if not letters:
        return None
    kana = scripts["HIRAGANA"] + scripts["KATAKANA"]
    if 2 * (kana + scripts["CJK"]) > letters:
        return "ja" if 20 * kana > scripts["CJK"] else "zh"
    for script, language in _SCRIPTS.items():
        if 2 * scripts[script] > letters:
            return "uk" if language == "ru" and re.search("[іїєґ]", text) else language
    words = Counter(re.findall(r"[^\W\d_]+", text[:200_000].lower()))
    hits = Counter({code: sum(words[word] for word in common.split()) for code, common in _COMMON.items()})
    (first, most), (_, second) = hits.most_common(2)
    return first if most > 1.2 * second and 20 * most >= words.total() else None


def _language_of(name: str, of_text: str | None) -> str | None:
    """Return the language of a file by its name ("talk.en.srt", "talk.zh-TW.forced.srt") and its text.

    The text goes first if it is in English, or if that of the name would have been found in it: Danish words do not make a
    Norwegian file Danish.
    """
    _, of_name = split_language(name)
    is_found = of_text == "en" or of_name in {"ja", "zh", *_SCRIPTS.values(), *_COMMON}
    return of_text if of_text is not None and is_found else of_name or of_text


def _texts(cues: Iterable[EditedCue]) -> Iterable[str]:
    return (re.sub(r"<[^<>]*>|\{[^{}]*\}", "", line) for cue in cues for line in cue.lines)
