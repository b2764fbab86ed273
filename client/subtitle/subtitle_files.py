"""Cues from subtitle files: SubRip, WebVTT, and the server's JSON."""

from __future__ import annotations

import html
import re
import textwrap

import msgspec
from msgspec import Struct

from subtitle.errors import OptionError
from subtitle.messages import EditedCue

MAX_MS = 359_999_999
MAX_LINES = 16
MAX_LINE_CHARS = 1_000
"""The limits of an EditedCue."""
MIN_MS = 500
"""The length of a cue that ends where it starts."""
_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[,.](\d{1,3})"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_LIKE_TIME = re.compile(r"\d:\d")
_VTT_TAG = re.compile(r"</?[A-Za-z0-9][^<>]*>")
_WORD_JOINER = "\u2060"
"""In the server's files it stands inside text that players would take for markup."""


class _JsonFile(Struct, frozen=True):
    cues: tuple[EditedCue, ...]


def parse_subtitles(data: bytes) -> tuple[EditedCue, ...]:
    """Return the cues of a file, which is UTF-8; blocks without text are left out.

    Text that exceeds the limits of an EditedCue is wrapped, and a cue without a length gets one. Raises OptionError with the line
    of an invalid time, and for a file without cues.
    """
    if data.lstrip()[:1] == b"{":
        try:
            cues = msgspec.json.decode(data, type=_JsonFile).cues
        except (msgspec.DecodeError, RecursionError) as error:
            raise OptionError(f"the file is not a transcript of this server in JSON: {error}") from None
        if faulty := [number for number, cue in enumerate(cues, 1) if cue.end_ms <= cue.start_ms]:
            raise OptionError(f"cue {faulty[0]} ends before it starts")
        return cues
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(
            f"the file is not UTF-8 (byte {error.start}); convert it, for example with iconv"
        ) from None
    is_vtt = text.startswith("WEBVTT")
    found: list[EditedCue] = []
    text_until = 0
    """Number of the last row of a cue's text."""
    rows = text.splitlines()
    for number, row in enumerate(rows, 1):
        if "-->" not in row:
            continue
        times = _TIMES.fullmatch(row)
        if times is None and (number <= text_until or not row[0].isdecimal()) and not _LIKE_TIME.search(row):
            continue  # an arrow in a text
        start_ms, end_ms = (_ms(times.groups()[at : at + 4]) for at in (0, 4)) if times else (0, -1)
        if end_ms < start_ms:
            raise OptionError(f"line {number}: {row.strip()[:80]!r} is not a start and a later end")
        end_ms = start_ms + MIN_MS if end_ms == start_ms else end_ms
        if end_ms > MAX_MS:
            raise OptionError(f"line {number}: {row.strip()[:80]!r} ends after 100 hours")
        block = _block(rows, number)
        text_until = number + len(block)
        lines = [line for one in block if (line := _plain(one, is_vtt=is_vtt))]
        if lines:
            found.append(EditedCue(start_ms=start_ms, end_ms=end_ms, lines=_wrapped(lines, number)))
    if not found and rows and not is_vtt:
        raise OptionError("the file has no cues; give an SRT, VTT or JSON file")
    return tuple(found)


def _wrapped(lines: list[str], number: int) -> tuple[str, ...]:
    """Return lines within the limits of an EditedCue; raises OptionError for too much text."""
    if len(lines) > MAX_LINES:
        lines = [" ".join(lines)]
    if max(map(len, lines)) > MAX_LINE_CHARS:
        lines = [
            part for line in lines for part in textwrap.wrap(line, MAX_LINE_CHARS, break_on_hyphens=False)
        ]
    if len(lines) > MAX_LINES:
        raise OptionError(
            f"line {number}: the cue has more than {MAX_LINES} lines of {MAX_LINE_CHARS} characters"
        )
    return tuple(lines)


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
