"""Cues from subtitle files: SubRip, WebVTT, and the server's JSON."""

from __future__ import annotations

import html
import re

import msgspec
from msgspec import Struct

from subtitle.errors import OptionError
from subtitle.messages import EditedCue

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[,.](\d{1,3})"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_VTT_TAG = re.compile(r"</?[A-Za-z0-9][^<>]*>")
_WORD_JOINER = "\u2060"
"""In the server's files it stands inside text that players would take for markup."""


class _JsonFile(Struct, frozen=True):
    cues: tuple[EditedCue, ...]


def parse_subtitles(data: bytes) -> tuple[EditedCue, ...]:
    """Return the cues of a file, which is UTF-8; blocks without text are left out.

    Raises OptionError with the line of an invalid time, and for a file without cues.
    """
    if data.lstrip()[:1] == b"{":
        try:
            return msgspec.json.decode(data, type=_JsonFile).cues
        except msgspec.DecodeError as error:
            raise OptionError(f"the file is not a transcript of this server in JSON: {error}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(
            f"the file is not UTF-8 (byte {error.start}); convert it, for example with iconv"
        ) from None
    is_vtt = text.startswith("WEBVTT")
    cues: list[EditedCue] = []
    rows = text.splitlines()
    for number, row in enumerate(rows, 1):
        if "-->" not in row:
            continue
        found = _TIMES.fullmatch(row)
        start_ms, end_ms = (_ms(found.groups()[at : at + 4]) for at in (0, 4)) if found else (0, 0)
        if end_ms <= start_ms:
            raise OptionError(f"line {number}: {row.strip()[:80]!r} is not a start and a later end")
        lines = tuple(_plain(line, is_vtt=is_vtt) for line in _block(rows, number))
        if any(lines):
            cues.append(EditedCue(start_ms=start_ms, end_ms=end_ms, lines=tuple(filter(None, lines))))
    if not cues and rows and not is_vtt:
        raise OptionError("the file has no cues; give an SRT, VTT or JSON file")
    return tuple(cues)


def _block(rows: list[str], begin: int) -> list[str]:
    """Return the rows from `begin` to the next blank one, or to a time that follows without one."""
    block: list[str] = []
    for row in rows[begin:]:
        if not row.strip():
            break
        if _TIMES.fullmatch(row):
            return block[:-1] if block and block[-1].strip().isdecimal() else block
        block.append(row)
    return block


def _plain(line: str, *, is_vtt: bool) -> str:
    text = line.replace(_WORD_JOINER, "").strip()
    return html.unescape(_VTT_TAG.sub("", text)) if is_vtt else text


def _ms(groups: tuple[str | None, ...]) -> int:
    hours, minutes, seconds, fraction = groups
    whole = (int(hours or 0) * 60 + int(minutes or 0)) * 60 + int(seconds or 0)
    return whole * 1000 + int((fraction or "0").ljust(3, "0"))
