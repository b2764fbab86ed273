"""The page of an admin: pause of the queue, log level and last lines, disks, retention and models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from subtitled.http import operate
from subtitled.http.auth import require_admin
from subtitled.http.errors import RequestError
from subtitled.http.forms import read_form
from subtitled.web import rendering
from subtitled.web.i18n import Translator, language_of
from subtitled.web.status_cache import StatusCache, daemon_timeout
from subtitled.web.view_models import model_row

if TYPE_CHECKING:
    from subtitle.messages import ModelFacts, StatsInfo, WorkerFacts

LINES = 200


async def show(request: Request) -> Response:
    """Respond with the page."""
    return rendering.page(request, "operate.html", **await _context(request))


async def show_live(request: Request) -> Response:
    """Respond with the part of the page that changes."""
    return rendering.fragment(request, "operate_live.html", **await _context(request))


async def change(request: Request) -> Response:
    """Pause or resume the queue, set the log level, load or unload a model."""
    form = await read_form(request, operate.MAX_BODY_BYTES)
    fields = {name: values[-1] for name, values in form.items()}
    try:
        changes = msgspec.convert(fields, operate.OperateRequest, strict=False)
    except msgspec.ValidationError as error:
        raise RequestError(400, "bad_format", f"the form is not valid: {error}") from None
    async with daemon_timeout():
        await operate.apply(request, changes)
    cache: StatusCache = request.app.state.status_cache
    cache.invalidate()
    return RedirectResponse("/operate", 303)


async def _context(request: Request) -> dict[str, Any]:
    cache: StatusCache = request.app.state.status_cache
    query = request.query_params
    level = query.get("log_level", "info")
    shown = next((name for name in operate.LEVELS if name == level), "info")
    text = query.get("log_text", "")[: operate.MAX_TEXT_CHARS]
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
        "levels": operate.LEVELS,
        "models": [model_controls(model, t) for model in snapshot.stats.models],
        "holders": [
            (worker.slot, _held(worker, snapshot.stats, t))
            for worker in snapshot.stats.workers
            if worker.role == "transcribe" and not worker.has_left
        ],
        "live_address": f"/fragments/operate?{urlencode(filters)}",
        "retention": [(key, _setting(key, value, t)) for key, value in sorted(info.retention.items())],
    }


def model_controls(model: ModelFacts, t: Translator) -> dict[str, Any]:
    """Return a model with what an admin can do with it; one behind an endpoint is not loaded here."""
    row = model_row(model, t)
    is_loadable = not model.source.startswith(("http://", "https://"))
    details = [t("operate.loads", n=model.loads) if is_loadable else model.source, *row.details]
    if model.preload:
        kept = "operate.kept_requested" if model.is_requested else "operate.kept"
        details.append(t(kept, part=model.keepers, n=model.preload))
    elif model.is_requested and not model.slots:
        details.append(t("operate.unloaded"))
    if model.stale_slots:
        details.append(t("operate.stale", slots=", ".join(model.stale_slots)))
    return {
        "name": model.name,
        "state": model.state,
        "icon": row.icon,
        "details": details,
        "cause": model.cause or model.preload_cause,
        "preload": model.preload,
        "is_loadable": is_loadable,
        "is_unloadable": bool(model.slots or model.stale_slots or model.preload),
    }


def _held(worker: WorkerFacts, stats: StatsInfo, t: Translator) -> list[str]:
    """Return the models that a worker has in memory, what it loads, and the memory of its device."""
    memory = {model.name: model.memory_bytes for model in stats.models}
    held = [
        f"{name} ({t.size(memory[name])})" if memory.get(name) else name
        for name in worker.models
        if name != worker.loading
    ]
    if worker.loading:
        held.append(t("worker.loading", model=worker.loading))
    held = held or [t("operate.nothing_loaded")]
    used, total = worker.memory_used_bytes, worker.memory_total_bytes
    return [*held, t("worker.memory", part=t.size(used), total=t.size(total))] if total else held


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
