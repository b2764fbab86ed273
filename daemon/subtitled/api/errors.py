"""The answer to a request that cannot be done."""

from __future__ import annotations


class RefusedError(Exception):
    """A request cannot be done; `code` is one of the protocol's error codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
