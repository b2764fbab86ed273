"""What the daemon's modules raise when the world, not our code, is at fault."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit statuses of the commands and of the worker processes.

    78 is EX_CONFIG of sysexits.h; systemd's `RestartPreventExitStatus=78` keys on it.
    """

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    CUDA = 70
    """A worker's CUDA context is broken; a new process may do better."""
    FATAL = 78
    """The configuration, or the model it names, is wrong: starting again cannot help."""


class SubtitledError(Exception):
    """Root of every error that the daemon raises on purpose."""


class ConfigError(SubtitledError):
    """The configuration is faulty; `faults` holds every fault found, one line each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class MediaError(SubtitledError):
    """A media file cannot be decoded; the message says why, for the person who dropped it."""


class ModelError(SubtitledError):
    """The model cannot be loaded on its device; the message names both."""


class WireAudioError(SubtitledError):
    """Audio came over the wire that is not what was sent."""


class InboxError(SubtitledError):
    """The inboxes are not watched any more; a bug of ours."""


class StoreError(SubtitledError):
    """The database is unusable, newer than this code, or a guarded update changed no row."""


class NoSpaceError(StoreError):
    """The database has no space to grow; nothing was changed, and a later try may do."""


class SpoolError(SubtitledError):
    """A folder or file of ours cannot be written: no space, read-only, or out of bounds."""
