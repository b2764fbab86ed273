"""Streaming request bodies: fields of a form are kept, the file is passed on in chunks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from urllib.parse import parse_qs

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from subtitled.http.errors import RequestError
from subtitled.languages import UNDETERMINED

BODY_IDLE_TIMEOUT_S = 60.0
MAX_FIELDS = 64
MAX_BOUNDARY_BYTES = 70
MAX_FIELD_BYTES = 2**16
MAX_DRAIN_BYTES = 2**25
"""Read of the rest of a refused body: most clients read the response only after they have sent everything."""
MIB = 2**20
MAX_PROMPT_CHARS = 1000
"""The limit of JobOptions.initial_prompt."""
_PROMPT_FIELDS = frozenset({"prompt", "initial_prompt"})
_NO_LANGUAGE = UNDETERMINED | {"", "null", "none", "undefined"}
"""Values that clients send for an unknown language."""


class RequestBody:
    """The body of one request; may be read once."""

    def __init__(self, request: Request) -> None:
        self._chunks = request.stream()
        self.is_complete = False
        request.scope["subtitled.body"] = self

    async def read(self) -> bytes:
        """Return the next chunk, empty at the end; raises RequestError after the idle timeout."""
        try:
            async with asyncio.timeout(BODY_IDLE_TIMEOUT_S):
                chunk = await anext(self._chunks, b"")
        except TimeoutError:
            raise RequestError(
                408, "timeout", f"no data received for {BODY_IDLE_TIMEOUT_S:g} s; send the request again"
            ) from None
        self.is_complete = not chunk
        return chunk


async def read_body(request: Request, max_bytes: int, name: str) -> bytes:
    """Return a whole body; raises RequestError, which calls it `name`, if it is larger than `max_bytes`."""
    body, content = RequestBody(request), bytearray()
    while chunk := await body.read():
        content += chunk
        if len(content) > max_bytes:
            raise RequestError(413, "too_big", f"the {name} is larger than {max_bytes} bytes")
    return bytes(content)


async def read_form(request: Request, max_bytes: int, max_fields: int = MAX_FIELDS) -> dict[str, list[str]]:
    """Return the fields of a URL-encoded form; raises RequestError if it is too large."""
    content = await read_body(request, max_bytes, "form")
    try:
        return parse_qs(content.decode("utf-8", "replace"), max_num_fields=max_fields)
    except ValueError:
        raise RequestError(413, "too_big", f"the form has more than {max_fields} fields") from None


def prompt_tail(prompt: str) -> str:
    """Return a prompt, cut to its end if it is too long: the model uses the last words only."""
    return prompt[-MAX_PROMPT_CHARS:]


def language_option(language: str) -> str:
    """Return the language of a job's options for a parameter; "auto" if it names none, as "und" and "null" do."""
    return "auto" if language.strip().casefold() in _NO_LANGUAGE else language[:32]


async def drain(request: Request) -> None:
    """Read and discard the rest of a body, up to MAX_DRAIN_BYTES."""
    body = request.scope.get("subtitled.body") or RequestBody(request)
    left = MAX_DRAIN_BYTES
    while left > 0 and not body.is_complete:
        left -= len(await body.read())


async def file_chunks(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield a body that is a file; raises RequestError if it is longer than `max_bytes`."""
    _check_content_length(request, max_bytes)
    body, size = RequestBody(request), 0
    while chunk := await body.read():
        size += len(chunk)
        _check_size(size, max_bytes)
        yield chunk


class UploadForm:
    """A multipart/form-data body (RFC 7578) with one file: call `open`, then iterate over `chunks` to the end."""

    def __init__(self, request: Request, file_field: str, max_bytes: int) -> None:
        """`file_field` is the name of the file's field. Raises RequestError if the body is not a form."""
        media_type, params = parse_options_header(request.headers.get("content-type"))
        if media_type != b"multipart/form-data" or not params.get(b"boundary"):
            raise RequestError(
                400,
                "bad_format",
                f"the body must be a form (multipart/form-data) with the media file as {file_field!r}",
            )
        boundary = params[b"boundary"]
        if len(boundary) > MAX_BOUNDARY_BYTES:
            message = (
                f"boundary of {len(boundary)} bytes is not allowed (up to {MAX_BOUNDARY_BYTES}, RFC 2046)"
            )
            raise RequestError(400, "bad_format", message)
        _check_content_length(request, max_bytes)
        self.fields: dict[str, list[str]] = {}
        """Values by name, in order; complete after the last of `chunks`."""
        self._body = RequestBody(request)
        self._file_field = file_field
        self._max_bytes = max_bytes
        self._file_bytes = 0
        self._file_name: str | None = None
        self._file_chunks: deque[bytes] = deque()
        self._header = [bytearray(), bytearray()]
        self._disposition = b""
        self._field_name = ""
        self._field_value: bytearray | None = None
        """None while the current part is the file."""
        self._is_complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    async def open(self) -> str:
        """Read up to the file's content and return its name; raises RequestError if there is no file."""
        while self._file_name is None:
            if not await self._parse_more():
                raise RequestError(
                    400,
                    "bad_format",
                    f"the form has no file; send the media as {self._file_field!r}",
                    param=self._file_field,
                )
        return self._file_name

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the file, then read the fields after it; raises RequestError."""
        while True:
            while self._file_chunks:
                yield self._file_chunks.popleft()
            if not await self._parse_more():
                return

    async def _parse_more(self) -> bool:
        chunk = await self._body.read()
        if not chunk:
            if not self._is_complete:
                raise RequestError(400, "bad_format", "the form is incomplete; send it again")
            return False
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise RequestError(400, "bad_format", f"invalid form: {error}") from error
        return True

    # -- parser callbacks ------------------------------------------------------------------------------------

    def _on_part_begin(self) -> None:
        self._disposition = b""
        self._header = [bytearray(), bytearray()]

    def _on_header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = [bytearray(), bytearray()]

    def _on_headers_finished(self) -> None:
        _, params = parse_options_header(self._disposition)
        self._field_name = params.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in params and self._field_name != self._file_field:
            self._field_value = bytearray()
            if sum(map(len, self.fields.values())) >= MAX_FIELDS:
                raise RequestError(400, "bad_format", f"the form has more than {MAX_FIELDS} fields")
            return
        if self._field_name != self._file_field or self._file_name is not None:
            raise RequestError(
                400,
                "bad_format",
                f"file {self._field_name!r}: the form may have one file, named {self._file_field!r}",
                param=self._field_name,
            )
        self._field_value = None
        self._file_name = params.get(b"filename", b"").decode("utf-8", "replace")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field_value is None:
            self._file_bytes += end - start
            _check_size(self._file_bytes, self._max_bytes)
            self._file_chunks.append(data[start:end])
            return
        self._field_value += data[start:end]
        if self._field_name in _PROMPT_FIELDS:
            del self._field_value[:-MAX_FIELD_BYTES]
        if len(self._field_value) > MAX_FIELD_BYTES:
            name = self._field_name
            raise RequestError(400, "bad_format", f"{name}: longer than {MAX_FIELD_BYTES} bytes", param=name)

    def _on_part_end(self) -> None:
        if self._field_value is not None:
            value = self._field_value.decode("utf-8", "replace")
            self.fields.setdefault(self._field_name, []).append(value)

    def _on_end(self) -> None:
        self._is_complete = True


def _check_content_length(request: Request, max_bytes: int) -> None:
    """Refuse a body that must be too long, before it is read; allow for a form's other fields."""
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit():
        _check_size(int(length) - MAX_FIELDS * MAX_FIELD_BYTES, max_bytes)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        limit = f"{max_bytes // MIB} MiB (http.max_upload_mb)"
        raise RequestError(
            413, "too_big", f"the file is larger than {limit}; raise the limit or send a smaller file"
        )
