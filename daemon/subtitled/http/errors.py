"""What a request cannot have, and how each interface says so."""

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
    "TOO_BIG": 413,
    "RATE_LIMITED": 429,
    "INTERNAL": 500,
    "DRAINING": 503,
    "NO_SPACE": 507,
}
"""The protocol's error codes; what is not here is 502: the daemon and the gateway do not understand each other."""
_AGAIN_S = {429: 1, 503: 5, 507: 60}
"""When a client may ask again (Retry-After)."""
_BARE_PATHS = ("/asr", "/detect-language")


class RequestError(SubtitledError):
    """A request cannot be done; the message names the value, the limit and the remedy."""

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        """In lower case, for programs."""
        self.param = param
        """The parameter at fault, if one is."""


def as_request_error(error: Exception) -> RequestError:
    """Return what went wrong in the terms of HTTP."""
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
            return RequestError(500, "internal", "a fault of the gateway, which its log tells about")


def answer(path: str, error: RequestError) -> Response:
    """Return the answer to a request of `path` that cannot be done, in the form of the interface that has the path."""
    headers = {"Retry-After": str(_AGAIN_S[error.status])} if error.status in _AGAIN_S else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="subtitled", Basic realm="subtitled"'
    return Response(
        msgspec.json.encode(body_of(path, error)),
        status_code=error.status,
        headers=headers,
        media_type="application/json",
    )


def body_of(path: str, error: RequestError) -> dict[str, Any]:
    """Return what `answer` says, before it is JSON."""
    if path.startswith("/v1/"):
        # https://platform.openai.com/docs/guides/error-codes: clients go by the status, people read the message.
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if error.status == 429 else kind
        said = {"message": str(error), "type": kind, "param": error.param, "code": error.code}
        return {"error": said}
    if path in _BARE_PATHS:
        return {
            "detail": str(error)
        }  # whisper-asr-webservice is a FastAPI application, and this is how they say it
    return {"code": error.code, "message": str(error), "param": error.param}
