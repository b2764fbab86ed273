"""The page of an admin: pause of the queue, log level and last lines, disks, retention and models."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from subtitled.http import operating
from subtitled.http.auth import require_admin
from subtitled.http.errors import RequestError
from subtitled.http.forms import read_body
from subtitled.web import rendering
from subtitled.web.i18n import Translator, language_of
from subtitled.web.status_cache import StatusCache, daemon_timeout

LINES = 200


async def show(request: Request) -> Response:
    """Respond with the page."""
    return rendering.page(request, "operate.html", **await _context(request))


async def show_live(request: Request) -> Response:
    """Respond with the part of the page that changes."""
    return rendering.fragment(request, "operate_live.html", **await _context(request))


async def change(request: Request) -> Response:
    """Pause or resume the queue, or set the log level."""
    content = await read_body(request, operating.MAX_BODY_BYTES, "form")
    fields = {name: values[-1] for name, values in parse_qs(content.decode("utf-8", "replace")).items()}
    try:
        changes = msgspec.convert(fields, operating.OperateRequest, strict=False)
    except msgspec.ValidationError as error:
        raise RequestError(400, "bad_format", f"the form is not valid: {error}") from None
    async with daemon_timeout():
        await operating.apply(request, changes)
    cache: StatusCache = request.app.state.status_cache
    cache.invalidate()
    return RedirectResponse("/operate", 303)


async def _context(request: Request) -> dict[str, Any]:
    cache: StatusCache = request.app.state.status_cache
    query = request.query_params
    level = query.get("log_level", "info")
    shown = next((name for name in operating.LEVELS if name == level), "info")
    text = query.get("log_text", "")[: operating.MAX_TEXT_CHARS]
    filters = {"log_level": shown, "log_text": text}
    require_admin(request)
    snapshot = await cache.get()
    async with daemon_timeout():
        info = await request.app.state.gateway.client.operate(log_lines=LINES, log_level=shown, log_text=text)
    t = Translator(language_of(request))
    return {
        "info": info,
        "stats": snapshot.stats,
        "welcome": snapshot.welcome,
        "filters": filters,
        "levels": operating.LEVELS,
        "live_address": f"/fragments/operate?{urlencode(filters)}",
        "retention": [(key, _setting(key, value, t)) for key, value in sorted(info.retention.items())],
    }


def _setting(key: str, value: float, t: Translator) -> str:
    """Return a setting's value with its unit, by the end of its name."""
    if key.endswith("_mb"):
        return t.size(value * 2**20)
    if key.endswith("_s") and value % 86_400 == 0:
        return t("unit.days", n=int(value) // 86_400)
    if key.endswith("_s"):
        return t.duration(value * 1000)
    if key.endswith("_days"):
        return t("unit.days", n=int(value))
    return t.number(value)
