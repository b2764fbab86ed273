"""Static files of the page, with addresses that contain a hash of the content."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib.resources import files

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_IMMUTABLE = "public, max-age=31536000, immutable"


class Asset(Struct, frozen=True, kw_only=True):
    """A static file."""

    content: bytes
    compressed: bytes
    """With gzip: scripts and styles shrink to a third."""
    media_type: str
    digest: str


@cache
def assets() -> dict[str, Asset]:
    """Return all files by name; read once."""
    found = {}
    for file in files("subtitled.web").joinpath("static").iterdir():
        media_type = _MEDIA_TYPES.get("." + file.name.rpartition(".")[2])
        if media_type is not None:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:16]
            found[file.name] = Asset(
                content=content,
                compressed=gzip.compress(content, mtime=0),
                media_type=media_type,
                digest=digest,
            )
    return found


def address(name: str) -> str:
    """Return a file's address, which changes with its content, so that browsers may cache it forever."""
    return f"/static/{name}?v={assets()[name].digest}"


async def serve(request: Request) -> Response:
    """Respond with a file, or 304."""
    asset = assets().get(request.path_params["name"])
    if asset is None:
        raise HTTPException(404)
    is_compressed = "gzip" in request.headers.get("accept-encoding", "")
    etag = f'"{asset.digest}{"-gzip" if is_compressed else ""}"'
    # Modules imported by other modules have no version in their address: they are revalidated.
    is_versioned = request.query_params.get("v") == asset.digest
    headers = {
        "ETag": etag,
        "Cache-Control": _IMMUTABLE if is_versioned else "no-cache",
        "Vary": "Accept-Encoding",
    }
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    if is_compressed:
        headers["Content-Encoding"] = "gzip"
    return Response(
        asset.compressed if is_compressed else asset.content, headers=headers, media_type=asset.media_type
    )
