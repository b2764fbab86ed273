"""The errors that the daemon raises for causes outside its code."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit statuses of the commands and of the worker processes.

    78 is EX_CONFIG of sysexits.h, which the unit's `RestartPreventExitStatus=78` uses.
    """

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    CUDA = 70
    """A worker's CUDA context is broken; a new process may work."""
    FATAL = 78
    """The configuration or its model has a fault: a restart cannot help."""


class SubtitledError(Exception):
    """Root of the daemon's errors."""


class ConfigError(SubtitledError):
    """The configuration has faults; `faults` has one line for each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class MediaError(SubtitledError):
    """A media file cannot be decoded; the message gives the reason to its user."""


class ModelError(SubtitledError):
    """The model cannot be loaded on its device; the message names both."""


class AudioTransferError(SubtitledError):
    """The audio that a worker received is not the audio that was sent: damaged, or not in a codec of this release."""


class InboxError(SubtitledError):
    """The thread that watches the inboxes has ended; a bug."""


class StoreError(SubtitledError):
    """The database is unusable, newer than this code, or a guarded update changed no row."""


class NoSpaceError(StoreError):
    """The database has no space to grow; nothing was changed, and a retry may work."""


class StateLostError(StoreError):
    """The database was deleted or replaced while the daemon runs; what is stored now is lost at the next start."""


class LayoutError(SubtitledError):
    """The transcript of one job cannot be composed; the message gives the reason to its user."""


class FileWriteError(SubtitledError):
    """A folder or file of the daemon cannot be written: no space, read-only, or outside its limits."""
