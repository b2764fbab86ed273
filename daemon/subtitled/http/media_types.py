"""What subtitles are called on the web: the media type of each format."""

from __future__ import annotations

_KINDS = {
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    "ttml": "application/ttml+xml",
    "json": "application/json",
}


def kind_of(form: str) -> str:
    """Return the media type of a format."""
    return _KINDS.get(form, "text/plain")
