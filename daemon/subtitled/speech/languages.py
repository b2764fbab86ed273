"""Names of languages: Whisper's codes, and those that containers and file names use for them."""

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

_GROUPS = tuple(tuple(names.split()) for names in _NAMES.split(","))
_CODES = {name: group[0] for group in reversed(_GROUPS) for name in group} | {"jv": "jw"}

_ISO_639_1 = {"jw": "jv"}
"""Whisper's codes that are not ISO 639-1 although the language has one; `yue` and `haw` have none, but ISO 639-3."""


def code_of(tag: str | None) -> str | None:
    """Return Whisper's code for a language that a container or a file name calls `tag`; None where it has none.

    Two letters, three letters, or BCP 47 with a region or script ("zh-Hans", "pt_BR"), in any case.
    """
    return _CODES.get((tag or "").lower().replace("_", "-").split("-")[0])


def is_in(tag: str | None, language: str) -> bool:
    """Say whether `tag` names `language`, two or three letters in lower case."""
    name = (tag or "").lower().split("-")[0]
    return name == language or any({name, language} <= set(group) for group in _GROUPS)


def iso_639(language: str) -> str:
    """Return the name that media players look for: ISO 639-1, else 639-3, for Whisper's code."""
    return _ISO_639_1.get(language, language)
