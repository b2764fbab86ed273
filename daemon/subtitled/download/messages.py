"""What the daemon and a download process send each other: one JSON object a line."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Bytes = Annotated[int, Meta(ge=0, le=2**53)]
"""A number of bytes; the process is not trusted, and larger ones have no place in a message or the database."""


class DownloadSettings(Struct, frozen=True, kw_only=True):
    """The first line of the process's input."""

    url: str
    folder: str
    """The only folder that it may write to; the media file and its unfinished parts are here."""
    max_bytes: int
    max_s: float
    """Longest recording, if the site names its length."""
    stall_s: float
    allowed_hosts: tuple[str, ...]
    allowed_networks: tuple[str, ...]
    parent_pid: int


class DownloadReport(Struct, frozen=True, kw_only=True):
    """A line of the process's output; the last one has `file` or `error`."""

    received_bytes: Bytes = 0
    total_bytes: Bytes = 0
    """Size of the whole file; 0 if unknown."""
    title: Annotated[str, Meta(max_length=500)] = ""
    language: Annotated[str, Meta(max_length=32)] = ""
    """As the site names it, such as "en-US"; "" if it does not."""
    file: Annotated[str, Meta(max_length=255)] = ""
    """Name of the complete file in the folder."""
    error: Annotated[str, Meta(max_length=1000)] = ""
    missing: Annotated[tuple[Annotated[str, Meta(max_length=500)], ...], Meta(max_length=8)] = ()
    """Layers of the sandbox that the kernel lacks."""
