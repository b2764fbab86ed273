"""What languages call themselves, for whoever chooses one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FIRST: Final = ("en", "zh", "yue", "ja", "ko")
"""Those that stand above the others in a choice."""

TONGUES: Final[Mapping[str, str]] = {
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
"""By Whisper's codes."""


def choices() -> list[tuple[str, str]]:
    """Return (code, name) of all, in the order in which they are offered."""
    first = [(code, TONGUES[code]) for code in FIRST]
    rest = [(code, name) for code, name in TONGUES.items() if code not in FIRST]
    return first + sorted(rest, key=lambda one: one[1].casefold())
