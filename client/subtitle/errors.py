"""The errors that the client raises."""

from __future__ import annotations


class SubtitleError(Exception):
    """Root of every error of this package."""


class ProtocolError(SubtitleError):
    """Invalid frames; `code` is one of the protocol's error codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ServerError(SubtitleError):
    """The server answered with an Error; `code` is one of the protocol's error codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        """The text without the code, for people."""


class UnreachableError(SubtitleError):
    """No answer within the time allowed; the message names the endpoint."""


class JobFailedError(SubtitleError):
    """The job ended as failed or cancelled; the message gives the cause."""


class KeyFileError(SubtitleError):
    """A key file cannot be used; the message names it and the remedy."""


class WaitTimeoutError(SubtitleError, TimeoutError):
    """The caller's timeout has passed; the job continues."""


class FileChangedError(SubtitleError):
    """The media file has changed since it was hashed; submit it again when no program writes to it."""


class OptionError(SubtitleError, ValueError):
    """A job option is unknown or its value is not allowed; the message names it and the limit."""
