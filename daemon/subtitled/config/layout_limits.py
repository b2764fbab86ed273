"""What a viewer can read, by language.

Sources: the Netflix Timed Text Style Guides (partnerhelp.netflixstudios.com): General Requirements (5/6 s to 7 s, 2 lines, 2 frames
between cues, cues nearer than half a second closed up), English (42 characters a line; 20 a second for adults, 17 for
children, as for adults in most other languages), Simplified and Traditional Chinese (16; 9 and 7), Japanese (13; 4), Korean (16; 12 and 9), Thai
(35).
"""

from __future__ import annotations

from typing import Literal, assert_never, get_args

import msgspec
from msgspec import Struct

from subtitle.messages import LayoutOptions

Profile = Literal["default", "strict", "raw"]
PROFILES: tuple[Profile, ...] = get_args(Profile)


class LayoutLimits(Struct, frozen=True):
    """Limits of a cue; 0: no limit. Without `max_chars` each phrase is a cue of one line."""

    max_chars: int = 42
    """Maximum characters per line; in Chinese, Japanese and Korean, full-width characters, where Latin letters count half."""
    max_lines: int = 2
    max_chars_per_s: float = 20
    """Reading speed; characters are counted as for `max_chars`, with spaces."""
    min_ms: int = 833
    max_ms: int = 7000
    gap_ms: int = 83
    """Minimum gap between two cues: two frames at 24 per second, so that the change is visible."""
    chain_ms: int = 500
    """A gap shorter than this is reduced to `gap_ms`: short blinks disturb."""


PROFILE_LIMITS = LayoutOptions()
"""The limits of the default profile, unchanged."""
_LATIN = LayoutLimits()
_RAW = LayoutLimits(max_chars=0, max_chars_per_s=0, min_ms=0, max_ms=0, gap_ms=0, chain_ms=0)
_DEFAULT = {
    "zh": LayoutLimits(max_chars=16, max_chars_per_s=9),
    "yue": LayoutLimits(max_chars=16, max_chars_per_s=9),
    # The guide's 13 are for translations, which may leave things out; 16 take less room than 42 Latin letters.
    "ja": LayoutLimits(max_chars=16, max_chars_per_s=4),
    "ko": LayoutLimits(max_chars=16, max_chars_per_s=12),
    "th": LayoutLimits(max_chars=35),
}
_STRICT = {
    "zh": LayoutLimits(max_chars=16, max_chars_per_s=7),
    "yue": LayoutLimits(max_chars=16, max_chars_per_s=7),
    "ja": LayoutLimits(max_chars=13, max_chars_per_s=4),
    "ko": LayoutLimits(max_chars=16, max_chars_per_s=9),
    "th": LayoutLimits(max_chars=35, max_chars_per_s=17),
}
_ALLOWED = {
    "max_chars": (4, 200),
    "max_lines": (1, 10),
    "max_chars_per_s": (1, 1000),
    "min_ms": (0, 60_000),
    "max_ms": (100, 3_600_000),
    "gap_ms": (0, 10_000),
    "chain_ms": (0, 10_000),
}
"""Minimum and maximum of each limit; 0 turns a limit off, except `max_lines`."""


def limits_for(language: str | None, layout: LayoutOptions = PROFILE_LIMITS) -> LayoutLimits:
    """Return the limits for subtitles in `language` (ISO 639, as Whisper names it; None if unknown).

    `strict` has the lower ones of the guides' reading speeds, `raw` leaves phrases as the model gave them.
    Raises ValueError, which names each limit at fault, where `layout` asks for what cannot be.
    """
    base = (language or "").partition("-")[0].lower()
    match layout.profile:
        case "default":
            limits = _DEFAULT.get(base, _LATIN)
        case "strict":
            limits = _STRICT.get(base, msgspec.structs.replace(_LATIN, max_chars_per_s=17))
        case "raw":
            limits = _RAW
        case _:
            assert_never(layout.profile)
    fields = {name: getattr(layout, name) for name in LayoutLimits.__struct_fields__}
    asked = {name: value for name, value in fields.items() if value is not None}
    limits = msgspec.structs.replace(limits, **asked)
    if faults := [*_faults(asked), *_contradictions(limits)]:
        raise ValueError("; ".join(faults))
    return limits


def check_limits(layout: LayoutOptions) -> None:
    """Raise ValueError, as `limits_for` does, if `layout` contradicts a limit in any language."""
    for language in (None, *_DEFAULT):
        limits_for(language, layout)


def _faults(asked: dict[str, float]) -> list[str]:
    found: list[str] = []
    for name, value in asked.items():
        least, most = _ALLOWED[name]
        off = "" if name == "max_lines" or least == 0 else ", or 0 for no limit"
        if not (least <= value <= most or (off and value == 0)):
            found.append(f"{name} = {value}: allowed: {least} to {most}{off}")
    return found


def _contradictions(limits: LayoutLimits) -> list[str]:
    if limits.max_ms and limits.min_ms > limits.max_ms:
        return [
            f"min_ms = {limits.min_ms} is more than max_ms = {limits.max_ms}; lower min_ms or raise max_ms"
        ]
    return []
