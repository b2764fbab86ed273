"""The page's style, scripts and icon: files of the package, named by what is in them."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOREVER = "public, max-age=31536000, immutable"


class Asset(Struct, frozen=True, kw_only=True):
    """One file."""

    content: bytes
    kind: str
    digest: str
    """Of its content."""


@cache
def assets() -> dict[str, Asset]:
    """Return all files by name; read once."""
    found = {}
    for file in files("subtitled.web").joinpath("static").iterdir():
        kind = _KINDS.get("." + file.name.rpartition(".")[2])
        if kind is not None:
            content = file.read_bytes()
            found[file.name] = Asset(
                content=content, kind=kind, digest=hashlib.sha256(content).hexdigest()[:16]
            )
    return found


def address(name: str) -> str:
    """Return where a page finds a file; another address with other content, so that it may be kept for good."""
    return f"/static/{name}?v={assets()[name].digest}"


async def serve(request: Request) -> Response:
    """Answer with a file; 304 to who has it."""
    asset = assets().get(request.path_params["name"])
    if asset is None:
        raise HTTPException(404)
    tag = f'"{asset.digest}"'
    # A module that another one imports has no version in its address: it is asked for each time.
    is_versioned = request.query_params.get("v") == asset.digest
    headers = {"ETag": tag, "Cache-Control": _FOREVER if is_versioned else "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers=headers, media_type=asset.kind)
