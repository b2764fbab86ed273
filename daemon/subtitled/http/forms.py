"""Bodies of requests, read as they come and never held: a form's fields are kept, its file is handed on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from subtitled.http.errors import RequestError

BODY_SILENCE_S = 60.0
"""A client that sends nothing for so long in the middle of a body is given up."""
MAX_FIELDS = 64
MAX_FIELD_BYTES = 2**16
DRAINED_BYTES = 2**25
"""Of the rest of a body that is refused, so much is read: most clients look for an answer only when all is sent."""
MIB = 2**20


class Body:
    """What a client sends with one request; may be read once."""

    def __init__(self, request: Request) -> None:
        self._pieces = request.stream()
        self.is_over = False
        request.scope["subtitled.body"] = self

    async def read(self) -> bytes:
        """Return what comes next, nothing at the end; raises RequestError for a client that has fallen silent."""
        try:
            async with asyncio.timeout(BODY_SILENCE_S):
                piece = await anext(self._pieces, b"")
        except TimeoutError:
            raise RequestError(
                408,
                "timeout",
                f"nothing came for {BODY_SILENCE_S:g} s in the middle of the request; send it again",
            ) from None
        self.is_over = not piece
        return piece


async def drain(request: Request) -> None:
    """Read the rest of a body that nobody wants, within reason."""
    body = request.scope.get("subtitled.body") or Body(request)
    left = DRAINED_BYTES
    while left > 0 and not body.is_over:
        left -= len(await body.read())


async def raw(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield a body that is a file; raises RequestError where it is longer than `max_bytes`."""
    _check_announced(request, max_bytes)
    body, size = Body(request), 0
    while piece := await body.read():
        size += len(piece)
        _check_size(size, max_bytes)
        yield piece


class Form:
    """One multipart/form-data body (RFC 7578) with one file: `open`, then `pieces` to their end."""

    def __init__(self, request: Request, file_field: str, max_bytes: int) -> None:
        """`file_field`: the name of the file's field. Raises RequestError for what is no form."""
        kind, words = parse_options_header(request.headers.get("content-type"))
        if kind != b"multipart/form-data" or not words.get(b"boundary"):
            raise RequestError(
                400,
                "bad_format",
                f"the body must be a form (multipart/form-data) with the media file as {file_field!r}",
            )
        _check_announced(request, max_bytes)
        self.fields: dict[str, list[str]] = {}
        """Values by name, in their order; complete after the last of `pieces`."""
        self._body = Body(request)
        self._file_field = file_field
        self._max_bytes = max_bytes
        self._size = 0
        self._file_name: str | None = None
        self._waiting: deque[bytes] = deque()
        self._header = [bytearray(), bytearray()]
        self._disposition = b""
        self._value: bytearray | None = None
        """That of the field at hand; None in the file."""
        self._name = ""
        self._is_whole = False
        self._parser = MultipartParser(
            words[b"boundary"],
            {
                "on_part_begin": self._part_begins,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._header_ends,
                "on_headers_finished": self._content_begins,
                "on_part_data": self._content,
                "on_part_end": self._part_ends,
                "on_end": self._form_ends,
            },
        )

    async def open(self) -> str:
        """Read up to the file, and return the name that it has at the client; raises RequestError where there is none."""
        while self._file_name is None:
            if not await self._more():
                raise RequestError(
                    400,
                    "bad_format",
                    f"the form has no file; send the media as {self._file_field!r}",
                    param=self._file_field,
                )
        return self._file_name

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the file, then read what comes after it; raises RequestError."""
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if not await self._more():
                return

    async def _more(self) -> bool:
        piece = await self._body.read()
        if not piece:
            if not self._is_whole:
                raise RequestError(400, "bad_format", "the form ends in the middle; send it again")
            return False
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise RequestError(400, "bad_format", f"the form cannot be read: {error}") from error
        return True

    # -- what the parser finds -------------------------------------------------------------------------------

    def _part_begins(self) -> None:
        self._disposition = b""
        self._header = [bytearray(), bytearray()]

    def _header_ends(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = [bytearray(), bytearray()]

    def _content_begins(self) -> None:
        _, words = parse_options_header(self._disposition)
        self._name = words.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in words and self._name != self._file_field:
            self._value = bytearray()
            if sum(map(len, self.fields.values())) >= MAX_FIELDS:
                raise RequestError(400, "bad_format", f"more than {MAX_FIELDS} fields in the form")
            return
        if self._name != self._file_field or self._file_name is not None:
            raise RequestError(
                400,
                "bad_format",
                f"a file as {self._name!r}: one file is taken, as {self._file_field!r}",
                param=self._name,
            )
        self._value = None
        self._file_name = words.get(b"filename", b"").decode("utf-8", "replace")

    def _content(self, data: bytes, start: int, end: int) -> None:
        if self._value is None:
            self._size += end - start
            _check_size(self._size, self._max_bytes)
            self._waiting.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise RequestError(
                400, "bad_format", f"{self._name}: longer than {MAX_FIELD_BYTES} bytes", param=self._name
            )

    def _part_ends(self) -> None:
        if self._value is not None:
            self.fields.setdefault(self._name, []).append(self._value.decode("utf-8", "replace"))

    def _form_ends(self) -> None:
        self._is_whole = True


def _check_announced(request: Request, max_bytes: int) -> None:
    """Refuse at once a body that can be nothing but too long; what a form has beside its file is let pass."""
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit():
        _check_size(int(announced) - MAX_FIELDS * MAX_FIELD_BYTES, max_bytes)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise RequestError(
            413,
            "too_big",
            f"the file is larger than {max_bytes // MIB} MiB (http.max_upload_mb); raise it, or send less",
        )
