"""Names of languages: Whisper's codes, and the codes of containers and file names."""

from __future__ import annotations

_NAMES = (
    "af afr, am amh, ar ara, as asm, az aze, ba bak, be bel, bg bul, bn ben, bo bod tib, br bre, bs bos, ca "
    "cat, cs ces cze, cy cym wel, da dan, de deu ger, el ell gre, en eng, es spa, et est, eu eus baq, fa fas "
    "per, fi fin, fo fao, fr fra fre, gl glg, gu guj, ha hau, haw haw, he heb, hi hin, hr hrv scr, ht hat, hu "
    "hun, hy hye arm, id ind, is isl ice, it ita, ja jpn, jw jav, jv jav, ka kat geo, kk kaz, km khm, kn kan, "
    "ko kor, la lat, lb ltz, ln lin, lo lao, lt lit, lv lav, mg mlg, mi mri mao, mk mkd mac, ml mal, mn mon, "
    "mr mar, ms msa may, mt mlt, my mya bur, ne nep, nl nld dut, nn nno, no nor nob, oc oci, pa pan, pl pol, "
    "ps pus, pt por, ro ron rum, ru rus, sa san, sd snd, si sin, sk slk slo, sl slv, sn sna, so som, sq sqi "
    "alb, sr srp scc, su sun, sv swe, sw swa, ta tam, te tel, tg tgk, th tha, tk tuk, tl tgl fil, tr tur, tt "
    "tat, uk ukr, ur urd, uz uzb, vi vie, yi yid, yo yor, yue yue, zh zho chi cmn"
)
"""Whisper's languages with the three-letter names (ISO 639-2/B, /T and -3) that containers use for them."""

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

_GROUPS = tuple(tuple(names.split()) for names in _NAMES.split(","))
_CODES = {name: group[0] for group in reversed(_GROUPS) for name in group} | {"jv": "jw"}

_ISO_639_1 = {"jw": "jv"}
"""Whisper's codes that differ from the language's ISO 639-1 code; `yue` and `haw` have only ISO 639-3 codes."""


def code_of(tag: str | None) -> str | None:
    """Return Whisper's code for the language `tag` of a container or a file name; None if unknown.

    Two letters, three letters, or BCP 47 with a region or script ("zh-Hans", "pt_BR"), in any case.
    """
    return _CODES.get((tag or "").lower().replace("_", "-").split("-")[0])


def is_in(tag: str | None, language: str) -> bool:
    """Return whether `tag` is `language`, two or three letters in lower case."""
    name = (tag or "").lower().split("-")[0]
    return name == language or any({name, language} <= set(group) for group in _GROUPS)


def name_of(language: str | None) -> str | None:
    """Return Whisper's English name of a language by its code, in lower case; the code if it has none."""
    return _ENGLISH_NAMES.get(language or "", language)


def iso_639(language: str) -> str:
    """Return the code that media players expect for Whisper's code: ISO 639-1, else 639-3."""
    return _ISO_639_1.get(language, language)
