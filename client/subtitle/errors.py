"""What a caller of the client may catch."""

from __future__ import annotations


class SubtitleError(Exception):
    """Root of every error of this package."""


class ProtocolError(SubtitleError):
    """Frames that are no message; `code` is one of the protocol's error codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ServerError(SubtitleError):
    """The server answered with an Error; `code` is one of the protocol's error codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class UnreachableError(SubtitleError):
    """No answer within the time allowed; the message names the endpoint."""


class JobFailedError(SubtitleError):
    """The job ended as failed or cancelled; the message gives the cause."""


class KeyFileError(SubtitleError):
    """A key file cannot be used; the message names it, and says what to do."""


class WaitTimeoutError(SubtitleError, TimeoutError):
    """What was waited for did not come within the caller's time; the job goes on by itself."""


class FileChangedError(SubtitleError):
    """The media file is no longer what it was when it was hashed; submit it again when it has come to rest."""


class OptionError(SubtitleError, ValueError):
    """An option of a job is none that the protocol knows; the message names it and what is allowed."""
