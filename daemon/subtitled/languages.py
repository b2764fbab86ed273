"""Languages by every name that people, containers and file names use; Whisper's codes are the result."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Final, Literal

_ENGLISH = (
    "af afrikaans, am amharic, ar arabic, as assamese, az azerbaijani, ba bashkir, be belarusian, bg "
    "bulgarian, bn bengali, bo tibetan, br breton, bs bosnian, ca catalan, cs czech, cy welsh, da danish, "
    "de german, el greek, en english, es spanish, et estonian, eu basque, fa persian, fi finnish, fo "
    "faroese, fr french, gl galician, gu gujarati, ha hausa, haw hawaiian, he hebrew, hi hindi, hr "
    "croatian, ht haitian creole, hu hungarian, hy armenian, id indonesian, is icelandic, it italian, ja "
    "japanese, jw javanese, ka georgian, kk kazakh, km khmer, kn kannada, ko korean, la latin, lb "
    "luxembourgish, ln lingala, lo lao, lt lithuanian, lv latvian, mg malagasy, mi maori, mk macedonian, "
    "ml malayalam, mn mongolian, mr marathi, ms malay, mt maltese, my myanmar, ne nepali, nl dutch, nn "
    "nynorsk, no norwegian, oc occitan, pa punjabi, pl polish, ps pashto, pt portuguese, ro romanian, ru "
    "russian, sa sanskrit, sd sindhi, si sinhala, sk slovak, sl slovenian, sn shona, so somali, sq "
    "albanian, sr serbian, su sundanese, sv swedish, sw swahili, ta tamil, te telugu, tg tajik, th thai, "
    "tk turkmen, tl tagalog, tr turkish, tt tatar, uk ukrainian, ur urdu, uz uzbek, vi vietnamese, yi "
    "yiddish, yo yoruba, yue cantonese, zh chinese"
)
"""Whisper's English names of its languages (`LANGUAGES` of whisper/tokenizer.py)."""

_ENGLISH_NAMES = dict(entry.split(" ", 1) for entry in _ENGLISH.split(", "))

NATIVE_NAMES: Final[Mapping[str, str]] = {
    "af": "Afrikaans", "am": "አማርኛ", "ar": "العربية", "as": "অসমীয়া", "az": "Azərbaycanca", "ba": "Башҡортса",
    "be": "Беларуская", "bg": "Български", "bn": "বাংলা", "bo": "བོད་སྐད་", "br": "Brezhoneg", "bs": "Bosanski",
    "ca": "Català", "cs": "Čeština", "cy": "Cymraeg", "da": "Dansk", "de": "Deutsch", "el": "Ελληνικά", "en": "English",
    "es": "Español", "et": "Eesti", "eu": "Euskara", "fa": "فارسی", "fi": "Suomi", "fo": "Føroyskt", "fr": "Français",
    "gl": "Galego", "gu": "ગુજરાતી", "ha": "Hausa", "haw": "ʻŌlelo Hawaiʻi", "he": "עברית", "hi": "हिन्दी", "hr": "Hrvatski",
    "ht": "Kreyòl ayisyen", "hu": "Magyar", "hy": "Հայերեն", "id": "Bahasa Indonesia", "is": "Íslenska", "it": "Italiano",
    "ja": "日本語", "jw": "Basa Jawa", "ka": "ქართული", "kk": "Қазақша", "km": "ខ្មែរ", "kn": "ಕನ್ನಡ", "ko": "한국어",
    "la": "Latina", "lb": "Lëtzebuergesch", "ln": "Lingála", "lo": "ລາວ", "lt": "Lietuvių", "lv": "Latviešu",
    "mg": "Malagasy", "mi": "Māori", "mk": "Македонски", "ml": "മലയാളം", "mn": "Монгол", "mr": "मराठी",
    "ms": "Bahasa Melayu", "mt": "Malti", "my": "မြန်မာ", "ne": "नेपाली", "nl": "Nederlands", "nn": "Norsk nynorsk",
    "no": "Norsk", "oc": "Occitan", "pa": "ਪੰਜਾਬੀ", "pl": "Polski", "ps": "پښتو", "pt": "Português", "ro": "Română",
    "ru": "Русский", "sa": "संस्कृतम्", "sd": "سنڌي", "si": "සිංහල", "sk": "Slovenčina", "sl": "Slovenščina",
    "sn": "chiShona", "so": "Soomaali", "sq": "Shqip", "sr": "Српски", "su": "Basa Sunda", "sv": "Svenska",
    "sw": "Kiswahili", "ta": "தமிழ்", "te": "తెలుగు", "tg": "Тоҷикӣ", "th": "ไทย", "tk": "Türkmençe", "tl": "Tagalog",
    "tr": "Türkçe", "tt": "Татарча", "uk": "Українська", "ur": "اردو", "uz": "Oʻzbekcha", "vi": "Tiếng Việt",
    "yi": "ייִדיש", "yo": "Yorùbá", "yue": "粵語", "zh": "中文",
}  # fmt: skip
"""Names of Whisper's languages in the languages themselves, by Whisper's code."""

_ALIASES: Final[Mapping[str, str]] = {
    # Whisper's second names of languages (TO_LANGUAGE_CODE of whisper/tokenizer.py).
    "burmese": "my", "castilian": "es", "flemish": "nl", "haitian": "ht", "letzeburgesch": "lb", "mandarin": "zh",
    "moldavian": "ro", "moldovan": "ro", "panjabi": "pa", "pushto": "ps", "sinhalese": "si", "valencian": "ca",
    # Other usual names.
    "bokmal": "no", "bokmaal": "no", "bokmål": "no", "brazilian": "pt", "brasileiro": "pt", "farsi": "fa", "filipino": "tl",
    "latin american": "es", "norsk bokmal": "no", "norsk bokmål": "no",
    "chinese simplified": "zh", "chinese traditional": "zh", "putonghua": "zh", "nynorsk": "nn",
    "简体": "zh", "繁體": "zh", "繁体": "zh", "简中": "zh", "繁中": "zh", "國語": "zh", "国语": "zh", "粤语": "yue",
    "简体中文": "zh", "簡體中文": "zh", "繁体中文": "zh", "繁體中文": "zh", "正體中文": "zh", "中文简体": "zh",
    "中文簡體": "zh", "中文繁体": "zh", "中文繁體": "zh", "普通话": "zh", "普通話": "zh", "汉语": "zh", "漢語": "zh",
    # Codes of subtitle sites and players that no standard has.
    "chs": "zh", "cht": "zh", "zhs": "zh", "zht": "zh", "zhe": "zh", "ze": "zh", "zhcn": "zh", "zhtw": "zh",
    "pob": "pt", "pb": "pt", "ptb": "pt", "ptbr": "pt", "pt-b": "pt", "spl": "es", "spn": "es", "ea": "es", "esp": "es",
    # Countries in place of languages, where the code is not that of another language.
    "jp": "ja", "cn": "zh", "kr": "ko", "cz": "cs", "dk": "da", "gr": "el", "ua": "uk", "br-pt": "pt", "us": "en",
    # Languages that Whisper knows under the code of a close one.
    "jv": "jw", "nb": "no", "fil": "tl", "cmn": "zh", "ekk": "et", "zsm": "ms", "lvs": "lv", "pes": "fa", "prs": "fa",
    # Members of a macrolanguage that langcodes treats as separate languages.
    "arb": "ar", "arz": "ar", "ary": "ar", "apc": "ar", "acm": "ar", "als": "sq", "pbt": "ps", "pbu": "ps", "pnb": "pa",
}  # fmt: skip
"""Names and codes that langcodes does not know, or knows as another language."""

UNDETERMINED = frozenset({"und", "unk", "unknown", "undefined", "mis", "mul", "zxx", "qaa", "xx"})
"""Tags that stand for no particular language."""

_ISO_639_1 = {"jw": "jv"}
"""Whisper's codes that differ from the language's ISO 639-1 code; `yue` and `haw` have only ISO 639-3 codes."""


@lru_cache(4096)
def code_of(tag: str | None) -> str | None:
    """Return Whisper's code for a language; None if Whisper does not know it.

    `tag` is an ISO 639-1, 639-2 (B or T) or 639-3 code, a withdrawn code ("iw"), BCP 47 with a region or script ("zh-Hant",
    "pt_BR"), an English or native name, or a code of subtitle sites ("cht", "pob"); in any case.
    """
    name = re.sub(r"[\s_]+", " ", _folded((tag or "").strip())[:100])
    if not name or name in UNDETERMINED:
        return None
    bare = re.sub(r"\s*\(.*\)$|[.@].*$", "", name)  # "Portuguese (Brazil)", "sr_RS.UTF-8@latin"
    for one in (name, bare):
        if (code := _names().get(one)) is not None:
            return code if code in _ENGLISH_NAMES else None
    if (code := _code_of_standard(bare.replace(" ", "-"))) is not None:
        return code
    # "Traditional Chinese", "Norwegian Nynorsk", "Spanish-Latin": the last word, which is no area.
    words = [word for word in re.split("[ -]", bare) if len(word) > 3 and word != "latin"]
    return next(
        (code for word in reversed(words[:4]) if (code := _names().get(word)) in _ENGLISH_NAMES), None
    )


ENGLISH = "en"
"""The language into which Whisper translates."""


def _code_of_standard(tag: str) -> str | None:
    """Return Whisper's code for a tag of BCP 47, the standards' codes of languages included."""
    if not re.fullmatch(r"[a-z]{1,3}(-[a-z0-9]{1,8})*", tag):
        return None
    from langcodes import Language  # its tables take 0.1 s

    primary = tag.split("-", maxsplit=1)[0]
    try:
        found = Language.get(tag)
        languages = [found.language or "", primary, found.prefer_macrolanguage().language or ""]
    except ValueError:
        # A known language with invalid subtags.
        languages = [primary]
    for one in languages:
        known = one if one in _ENGLISH_NAMES else _ALIASES.get(one)
        if known in _ENGLISH_NAMES:
            return known
    return None


@cache
def _names() -> Mapping[str, str]:
    """Return Whisper's code by each name that is looked up as it is, in lower case; also without accents."""
    native = {_folded(name): code for code, name in NATIVE_NAMES.items()}
    plain = {unicodedata.normalize("NFD", name).encode("ascii", "ignore").decode(): name for name in native}
    return {
        **{name: native[own] for name, own in plain.items() if _is_latin(own)},
        **native,
        **{name: code for code, name in _ENGLISH_NAMES.items()},
        **{code: code for code in _ENGLISH_NAMES},
        **_ALIASES,
    }


def _folded(name: str) -> str:
    """Return a name in lower case, with one form of each character: full-width letters and brackets are usual ones."""
    return unicodedata.normalize("NFKC", name).casefold()


def _is_latin(name: str) -> bool:
    return all(
        unicodedata.name(char, "").startswith("LATIN")
        for char in unicodedata.normalize("NFC", name)
        if char.isalpha()
    )


def chinese_of(tag: str) -> Literal["off", "tw", "hk", "cn"]:
    """Return the variant of Chinese characters in the name of a language; "off" if it names no script and no region.

    Traditional characters are those of Taiwan, unless the region is Hong Kong or Macau.
    """
    if code_of(tag) not in {"zh", "yue"}:
        return "off"
    name = _folded(tag)
    parts = set(re.split(r"[\W_]+", name))
    if parts & {"hk", "mo", "hong", "macau", "macao", "香港"} and not parts & {"hans", "simplified"}:
        return "hk"
    if parts & {"hant", "tw", "cht", "zht", "zhtw", "traditional", "taiwan"} or re.search(
        "[繁正][體体中]", name
    ):
        return "tw"
    hans = {"hans", "cn", "sg", "my", "chs", "zhs", "zhcn", "simplified", "china", "singapore"}
    if parts & hans or re.search("[简簡][體体中]", name):
        return "cn"
    return "off"


MAX_TAG_CHARS = 35
"""Maximum length of a language tag (RFC 5646, 4.4.1)."""


@lru_cache(4096)
def target_tag(name: str) -> str | None:
    """Return the BCP 47 tag of a language to translate to: "zh-TW" for "zh_tw" and "cht", "ja" for "Japanese"; None if unknown.

    Any language of the standards is known, not only Whisper's. A tag has up to 35 characters, and no part for private use ("-x-").
    """
    code, chinese = code_of(name), chinese_of(name)
    if name.casefold() in UNDETERMINED:
        return None
    is_site_code = chinese != "off" and name.isalnum()  # "cht", which is another language in the standards
    if not is_site_code and re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*", name):
        from langcodes import Language  # its tables take 0.1 s

        try:
            found = Language.get(name)
        except ValueError:
            found = None
        if found is not None and (found.private or len(found.to_tag()) > MAX_TAG_CHARS):
            return None
        if found is not None and found.is_valid() and code_of(found.to_tag()) == code:
            return found.to_tag()
    if code is None:
        return None
    return f"{iso_639(code)}-{chinese.upper()}" if chinese != "off" and code == "zh" else iso_639(code)


def is_in(tag: str | None, language: str) -> bool:
    """Return whether `tag` and `language`, each by any name, are the same language for Whisper."""
    code = code_of(tag)
    return code is not None and code == code_of(language)


def name_of(language: str | None) -> str | None:
    """Return Whisper's English name of a language by its code, in lower case; the code if it has none."""
    return _ENGLISH_NAMES.get(language or "", language)


def iso_639(language: str) -> str:
    """Return the code that media players expect for Whisper's code: ISO 639-1, else 639-3."""
    return _ISO_639_1.get(language, language)


def is_audio_track(option: int | str) -> bool:
    """Return whether an option names an audio track: by a number from 1 to 1000, a language of Whisper, or "auto"."""
    name = str(option)
    if name.isdecimal():
        return name.isascii() and 1 <= int(name) <= 1000
    return name == "auto" or code_of(name) is not None


def option_of(language: str) -> str:
    """Return the language of an option as Whisper's code: "auto" and "multi", and what is unknown, as they are."""
    return language if language in {"auto", "multi"} else code_of(language) or language


def named_language(option: str) -> str | None:
    """Return the language that an option names; None for "auto" and "multi", which leave it open."""
    return None if option in {"auto", "multi"} else option
