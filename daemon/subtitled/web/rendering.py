"""What all pages share: templates, words, and how they are sent."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any
from urllib.parse import urlencode

import jinja2
from starlette.requests import Request
from starlette.responses import Response

from subtitled.http.errors import RequestError
from subtitled.web import assets
from subtitled.web.i18n import Translator
from subtitled.web.language_choice import PARAMETER, language_of, remember
from subtitled.web.messages import LANGUAGES


@cache
def _templates() -> jinja2.Environment:
    """Return the templates of the package; what is put into them is escaped, an undefined name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("subtitled.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = assets.address
    return environment


def page(request: Request, template: str, status: int = 200, **facts: object) -> Response:
    """Return a whole page. In its template `t` speaks the browser's language (see Translator), `facts` are names."""
    voice = Translator(language_of(request))
    html = _render(template, voice, {"switches": _switches(request, voice), "path": _here(request), **facts})
    response = Response(html, status, media_type="text/html")
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Vary"] = "Accept-Language, Cookie"
    remember(request, response)
    return response


def fragment(request: Request, template: str, **facts: object) -> Response:
    """Return a part of a page that has changed, or 304 to who has it as it is."""
    html = _render(template, Translator(language_of(request)), facts).encode()
    tag = f'"{hashlib.sha256(html).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Accept-Language, Cookie"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(html, headers=headers, media_type="text/html")


def fault(request: Request, error: RequestError) -> Response:
    """Return the page that says why there is no other; where the daemon is away it comes back by itself."""
    response = page(request, "error.html", error.status, error=error, is_away=error.status == 503)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="subtitled", charset="UTF-8"'
    return response


def _render(template: str, voice: Translator, facts: dict[str, Any]) -> str:
    words = json.dumps(voice.script(), ensure_ascii=False)
    return _templates().get_template(template).render(t=voice, words=words, **facts)


def _switches(request: Request, voice: Translator) -> list[tuple[str, str, bool]]:
    """Return (language, address of this page in it, whether it is spoken) for each."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != PARAMETER]
    path = request.url.path if request.method == "GET" else "/"
    return [
        (language, f"{path}?{urlencode([*kept, (PARAMETER, language)])}", language == voice.language)
        for language in LANGUAGES
    ]


def _here(request: Request) -> str:
    """Return the address of this page, for a link that loads it again."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != PARAMETER]
    path = request.url.path if request.method == "GET" else "/"
    return f"{path}?{urlencode(kept)}" if kept else path
