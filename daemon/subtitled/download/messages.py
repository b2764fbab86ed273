"""What the daemon and a download process send each other: one JSON object a line."""

from __future__ import annotations

from msgspec import Struct


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

    received_bytes: int = 0
    total_bytes: int = 0
    """Size of the whole file; 0 if unknown."""
    title: str = ""
    language: str = ""
    """As the site names it, such as "en-US"; "" if it does not."""
    file: str = ""
    """Name of the complete file in the folder."""
    error: str = ""
    missing: tuple[str, ...] = ()
    """Layers of the sandbox that the kernel lacks."""
