"""One call of a chat endpoint with OpenAI's interface."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from subtitled.config.addresses import is_loopback
from subtitled.core.protocol import EndpointSettings
from subtitled.errors import SubtitledError
from subtitled.version import VERSION

MAX_ANSWER_BYTES = 4 * 2**20
_CHUNK_BYTES = 65_536
_QUOTED_CHARS = 200
_MAX_TOKENS = 2**31
"""More is a fault of the endpoint."""
_RETRIED = frozenset({408, 409, 425, 429})
_INVALID = frozenset({400, 413, 422, 501})
"""Statuses by which servers reject the request itself, for example its length or a parameter."""


class EndpointError(SubtitledError):
    """A call of the endpoint has failed; the message names the endpoint and the reason, never the key."""

    def __init__(
        self, message: str, *, status: int = 0, is_temporary: bool, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; 0 without an answer, or for one that does not follow the interface."""
        self.is_temporary = is_temporary
        """A later call may succeed."""
        self.retry_after_s = retry_after_s
        """Seconds to wait before a retry, from Retry-After; 0 without it."""

    @property
    def is_request_invalid(self) -> bool:
        """Whether the endpoint rejects this request, so that another one may succeed."""
        return self.status in _INVALID


class ChatAnswer(Struct, frozen=True, kw_only=True):
    """The text of an answer, and what it took."""

    text: str
    model: str
    """As the endpoint names it; "" if it does not."""
    tokens: int
    """Tokens of input and output; 0 if the endpoint does not count them."""


class _Part(Struct, frozen=True):
    text: str = ""


class _Message(Struct, frozen=True):
    content: str | tuple[_Part, ...] | None = None
    """Some endpoints divide it into parts, those of reasoning without text."""

    @property
    def text(self) -> str:
        if isinstance(self.content, tuple):
            return "".join(part.text for part in self.content)
        return self.content or ""


class _Choice(Struct, frozen=True):
    message: _Message


class _Usage(Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(Struct, frozen=True):
    choices: tuple[_Choice, ...]
    model: str | None = None
    usage: _Usage | None = None


_completion_decoder = msgspec.json.Decoder(_Completion, strict=False)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key is sent to the configured endpoint alone."""

    def redirect_request(self, *_: Any) -> None:
        return None


class ChatEndpoint:
    """A chat endpoint; thread-safe."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._url = settings.url.rstrip("/") + "/chat/completions"
        self._key_file = settings.api_key_file
        parts = urlsplit(self._url)
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        """The endpoint in messages: without path and credentials."""
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if is_loopback(parts.hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def complete(self, body: dict[str, Any], timeout_s: float) -> ChatAnswer:
        """Send a request and return the answer; raises EndpointError. Blocks. The key file is read each time.

        `timeout_s` is the time from connecting to the last byte of the answer.
        """
        key = self._key()
        headers = {"Content-Type": "application/json", "User-Agent": f"subtitled/{VERSION}"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, msgspec.json.encode(body), headers)  # noqa: S310 - checked by config
        until = time.monotonic() + timeout_s
        try:
            with self._opener.open(request, timeout=timeout_s) as response:
                data = self._read(response, until)
        except urllib.error.HTTPError as error:
            raise self._status_error(error, key) from None
        except urllib.error.URLError as error:
            raise self._no_answer(error.reason, timeout_s) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._no_answer(error, timeout_s) from None
        try:
            found = _completion_decoder.decode(data)
            text = found.choices[0].message.text
        except (msgspec.DecodeError, IndexError, RecursionError):
            raise EndpointError(
                f"{self.name}: the answer is no chat completion: {_quoted(data, key)}", is_temporary=True
            ) from None
        usage = found.usage or _Usage()
        return ChatAnswer(
            text=text,
            model=found.model or "",
            tokens=sum(
                min(max(0, count or 0), _MAX_TOKENS)
                for count in (usage.prompt_tokens, usage.completion_tokens)
            ),
        )

    def _key(self) -> str:
        if not self._key_file:
            return ""
        try:
            key = Path(self._key_file).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            cause = (
                error.strerror if isinstance(error, OSError) else "it contains characters that are not ASCII"
            )
            raise EndpointError(
                f"{self._key_file}: the key cannot be read: {cause}", is_temporary=False
            ) from None
        if "\n" in key or "\r" in key:
            raise EndpointError(
                f"{self._key_file}: more than one line; a key is one line", is_temporary=False
            )
        return key

    def _read(self, response: http.client.HTTPResponse, until: float) -> bytes:
        data = b""
        while chunk := response.read1(_CHUNK_BYTES):
            data += chunk
            if len(data) > MAX_ANSWER_BYTES:
                raise EndpointError(
                    f"{self.name}: the answer is longer than {MAX_ANSWER_BYTES} bytes", is_temporary=True
                )
            if time.monotonic() > until:
                raise TimeoutError
        return data

    def _no_answer(self, error: object, timeout_s: float) -> EndpointError:
        cause = (
            f"no answer within {timeout_s:.3g} s"
            if isinstance(error, TimeoutError)
            else (str(error) or type(error).__name__)
        )
        return EndpointError(f"{self.name}: {cause}", is_temporary=True)

    def _status_error(self, error: urllib.error.HTTPError, key: str) -> EndpointError:
        data = b""
        with error, suppress(OSError, http.client.HTTPException):
            data = error.read(_CHUNK_BYTES)
        cause = f"{self.name}: status {error.code}"
        if error.code in {401, 403}:
            cause += f"; the key in {self._key_file} is not accepted" if key else "; set api_key_file"
        elif 300 <= error.code < 400:
            cause += "; redirects are not followed, set `endpoint` to the new address"
        detail = _quoted(data, key)
        return EndpointError(
            f"{cause}: {detail}" if detail else cause,
            status=error.code,
            is_temporary=error.code in _RETRIED or (error.code >= 500 and error.code not in _INVALID),
            retry_after_s=_seconds(error.headers.get("Retry-After", "")),
        )


def _seconds(value: str) -> float:
    """Return a Retry-After in seconds; 0 for a date, which no endpoint sends."""
    return float(value) if value.strip().isascii() and value.strip().isdigit() and len(value) < 8 else 0.0


def _quoted(data: bytes, key: str) -> str:
    """Return the beginning of an answer for a message, on one line and without the key."""
    text = " ".join(data.decode("utf-8", "replace").split())
    if key:
        text = text.replace(key, "***")
    printable = "".join(char if char.isprintable() else "?" for char in text)
    return printable[:_QUOTED_CHARS]
