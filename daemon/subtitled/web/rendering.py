"""Rendering of pages, fragments and error pages."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from starlette.requests import Request
from starlette.responses import Response

from subtitled.http.auth import role_of
from subtitled.http.errors import RequestError
from subtitled.web import assets
from subtitled.web.i18n import PARAMETER, Translator, catalogs, language_of, remember_language
from subtitled.web.reasons import marked_up
from subtitled.web.view_models import track_summary

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202d\u202e]")
"""Control characters, and those that show a file name in another order: "xfdp.exe" as "exe.pdfx"."""
_HEADERS = {"Cache-Control": "private, no-cache", "Vary": "Accept-Language, Cookie"}


@cache
def _templates() -> jinja2.Environment:
    """Return the templates; values are escaped and printable, an undefined name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("subtitled.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"asset": assets.address, "reason": marked_up, "track_summary": track_summary}
    return environment


def _printable(value: object) -> object:
    """Return a text with U+FFFD for each unprintable character, and any other value as it is."""
    return _UNPRINTABLE.sub("\ufffd", value) if type(value) is str else value


def page(request: Request, template: str, status: int = 200, **context: object) -> Response:
    """Return a page; its template has `t`, the Translator, and the names of `context`."""
    t = Translator(language_of(request))
    whole = {
        "language_links": _language_links(request, t),
        "current_url": _current_url(request),
        "is_admin": role_of(request) == "admin",
        "is_session": request.scope.get("subtitled.session", False),
        **context,
    }
    response = Response(_render(template, t, whole), status, _HEADERS, "text/html")
    remember_language(request, response)
    return response


def fragment(request: Request, template: str, **context: object) -> Response:
    """Return a part of a page, or 304 if it has not changed."""
    html = _render(template, Translator(language_of(request)), context).encode()
    etag = f'"{hashlib.sha256(html).hexdigest()[:32]}"'
    headers = {"ETag": etag, **_HEADERS}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(html, headers=headers, media_type="text/html")


def error_page(request: Request, error: RequestError) -> Response:
    """Return the page for an error; it reloads automatically if the daemon does not respond."""
    if error.status == 401:
        # Without WWW-Authenticate: the browser would show its own form above this one.
        return sign_in_page(request, 401, _current_url(request))
    return page(request, "error.html", error.status, error=error, is_away=error.status == 503)


def sign_in_page(request: Request, status: int, target: str, *, is_wrong: bool = False) -> Response:
    """Return the form to sign in; `target`: the address to go to afterwards."""
    return page(request, "sign_in.html", status, target=target, is_wrong=is_wrong)


def _render(template: str, t: Translator, context: dict[str, Any]) -> str:
    messages = json.dumps(t.script_messages(), ensure_ascii=False)
    return _templates().get_template(template).render(t=t, messages=messages, **context)


def _language_links(request: Request, t: Translator) -> list[tuple[str, str, str, bool]]:
    """Return (language, its name, address of this page in it, whether it is the current one) for each."""
    return [
        (language, messages["language.name"], _current_url(request, language), language == t.language)
        for language, messages in catalogs().items()
    ]


def _current_url(request: Request, language: str = "") -> str:
    """Return the address of this page, in `language` if given; the overview's after a POST."""
    query = [(name, value) for name, value in request.query_params.multi_items() if name != PARAMETER]
    if language:
        query.append((PARAMETER, language))
    path = request.scope["path"] if request.method == "GET" else "/"
    return f"{quote(path)}?{urlencode(query)}" if query else quote(path)
