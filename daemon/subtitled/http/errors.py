"""Errors of the HTTP gateway, and the form in which each interface returns them."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from subtitle.errors import JobFailedError, OptionError, ServerError, SubtitleError, UnreachableError
from subtitled.errors import SubtitledError

_STATUS = {
    "BAD_FORMAT": 400,
    "UNSUPPORTED": 400,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "WRONG_STATE": 409,
    "CONFLICT": 409,
    "TOO_BIG": 413,
    "RATE_LIMITED": 429,
    "INTERNAL": 500,
    "DRAINING": 503,
    "NO_SPACE": 507,
}
"""HTTP status by the protocol's error code; 502 for any other code."""
_RETRY_AFTER_S = {429: 1, 503: 5, 507: 60}
_FASTAPI_PATHS = ("/asr", "/detect-language")


class RequestError(SubtitledError):
    """A request is refused; the message names the value, the limit and the remedy."""

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None) -> None:
        """`code` is in lower case, for programs; `param` names the invalid parameter, if there is one."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


def not_allowed(
    param: str, value: str, allowed: str, *, status: int = 400, code: str = "bad_format"
) -> RequestError:
    """Return the error for a parameter whose value is not one of those allowed."""
    return RequestError(status, code, f"{param}: {value[:100]!r} is not allowed ({allowed})", param=param)


def to_request_error(error: Exception) -> RequestError:
    """Convert any exception to a RequestError."""
    match error:
        case RequestError():
            return error
        case ServerError(code=code):
            _, _, message = str(error).partition(": ")
            return RequestError(_STATUS.get(code, 502), code.lower(), message)
        case OptionError():
            return RequestError(400, "bad_format", str(error), param=str(error).partition(":")[0])
        case UnreachableError():
            return RequestError(503, "unreachable", str(error))
        case JobFailedError():
            return RequestError(409, "cancelled", str(error))
        case SubtitleError():
            return RequestError(502, "bad_gateway", str(error))
        case HTTPException(status_code=status, detail=detail):
            return RequestError(status, "not_found" if status == 404 else "bad_request", detail)
        case _:
            return RequestError(500, "internal", "internal error; see the gateway's log")


def error_response(path: str, error: RequestError, text: str = "") -> Response:
    """Return the JSON error response, in the form of the interface that serves `path`; `text`: the translated message."""
    headers = {"Retry-After": str(_RETRY_AFTER_S[error.status])} if error.status in _RETRY_AFTER_S else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="subtitled", Basic realm="subtitled"'
    content = msgspec.json.encode(error_body(path, error, text))
    return Response(content, error.status, headers, "application/json")


def error_body(path: str, error: RequestError, text: str = "") -> dict[str, Any]:
    """Return the body of `error_response` before it is encoded."""
    if path.startswith("/v1/"):
        # https://platform.openai.com/docs/guides/error-codes
        type_ = "server_error" if error.status >= 500 else "invalid_request_error"
        type_ = "rate_limit_error" if error.status == 429 else type_
        return {"error": {"message": str(error), "type": type_, "param": error.param, "code": error.code}}
    if path in _FASTAPI_PATHS:
        # whisper-asr-webservice is a FastAPI application.
        return {"detail": str(error)}
    body = {"code": error.code, "message": str(error), "param": error.param}
    return body | {"text": text} if text else body
