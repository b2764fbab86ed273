"""Which language a browser is answered in."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from subtitled.web.messages import LANGUAGES

COOKIE = "subtitled_language"
PARAMETER = "lang"
_YEAR_S = 365 * 24 * 3600


def language_of(request: Request) -> str:
    """Return what was chosen on the page, now or before, else what the browser prefers of what there is."""
    for chosen in (request.query_params.get(PARAMETER), request.cookies.get(COOKIE)):
        if chosen in LANGUAGES:
            return chosen
    return preferred(request.headers.get("accept-language", ""))


def remember(request: Request, response: Response) -> None:
    """Have the browser keep a language that was chosen with this request."""
    chosen = request.query_params.get(PARAMETER)
    if chosen in LANGUAGES:
        response.set_cookie(COOKIE, chosen, max_age=_YEAR_S, httponly=True, samesite="lax")


def preferred(accepted: str) -> str:
    """Return the language that an Accept-Language header (RFC 9110, 12.5.4) likes best; Chinese of any kind is ours."""
    best, best_quality = LANGUAGES[0], 0.0
    for part in accepted[:1000].split(","):
        name, _, words = part.strip().lower().partition(";")
        ours = {"en": "en", "zh": "zh-Hant"}.get(name.split("-")[0].strip())
        quality = _quality(words)
        if ours is not None and quality > best_quality:
            best, best_quality = ours, quality
    return best


def _quality(words: str) -> float:
    name, _, value = words.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
