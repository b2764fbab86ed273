"""Cues as TTML (W3C, Timed Text Markup Language 2), within the IMSC 1.1 text profile."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from subtitled.cues.cue_text import clock, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from subtitled.cues.layout import Cue

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to say (section 2.2)."""

_HEAD = """\
<?xml version="1.0" encoding="UTF-8"?>
<tt xmlns="http://www.w3.org/ns/ttml" xmlns:tts="http://www.w3.org/ns/ttml#styling" \
xmlns:ttp="http://www.w3.org/ns/ttml#parameter" \
ttp:contentProfiles="http://www.w3.org/ns/ttml/profile/imsc1.1/text" \
ttp:timeBase="media" xml:space="preserve" xml:lang="{language}">
<head>
<styling>
<style xml:id="s" tts:fontFamily="proportionalSansSerif" tts:fontSize="100%" tts:lineHeight="125%" \
tts:color="#ffffff" tts:textAlign="center" tts:textOutline="#000000 5%"/>
</styling>
<layout>
<region xml:id="r" tts:origin="10% 10%" tts:extent="80% 80%" tts:displayAlign="after"/>
</layout>
</head>
<body style="s" region="r"><div>
"""
_FOOT = "</div></body>\n</tt>\n"


def ttml(cues: Iterable[Cue], language: str | None) -> str:
    """Return `cues` as TTML in a language of ISO 639 (None: unknown); what XML cannot say becomes U+FFFD."""
    rows = (
        f'<p begin="{clock(cue.start_ms, ".")}" end="{clock(cue.end_ms, ".")}">'
        + "<br/>".join(_text(line) for line in lines)
        + "</p>\n"
        for cue, lines in shown(cues)
    )
    return _HEAD.format(language=_text(language or "")) + "".join(rows) + _FOOT


def _text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text).translate(_ESCAPES)
