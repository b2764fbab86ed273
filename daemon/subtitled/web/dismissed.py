"""Failures that a user has dismissed: in a cookie, because another user may still need them."""

from __future__ import annotations

import time
from collections.abc import Iterable

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from subtitle.messages import JobFacts
from subtitled.http.forms import drain
from subtitled.web.status_cache import StatusCache

COOKIE = "subtitled_dismissed"
MAX_JOBS = 40
"""More are dismissed together with all earlier ones."""
MAX_AGE_S = 2 * 24 * 3600
"""Longer than failures are shown."""


class Dismissed(Struct, frozen=True, kw_only=True):
    """Failures before a time, and single ones after it."""

    before_ms: int = 0
    jobs: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: Request) -> Dismissed:
        """Return what the cookie of a request says; nothing without one."""
        time_text, *jobs = request.cookies.get(COOKIE, "0")[:2000].split(".")
        is_number = time_text.isascii() and time_text.isdigit() and len(time_text) < 16
        return cls(before_ms=int(time_text) if is_number else 0, jobs=tuple(jobs[:MAX_JOBS]))

    def without(self, failed: Iterable[JobFacts]) -> tuple[JobFacts, ...]:
        """Return the failures that are not dismissed."""
        return tuple(
            job for job in failed if (job.ended_ms or 0) > self.before_ms and job.id not in self.jobs
        )


async def dismiss(request: Request) -> Response:
    """Dismiss one failure, or all without a job in the path."""
    cache: StatusCache = request.app.state.status_cache
    await drain(request)
    known, job = Dismissed.of(request), request.path_params.get("job", "")
    now_ms = int(time.time() * 1000)
    jobs = tuple(one for one in (*known.jobs, job) if one.isalnum())
    value = f"{known.before_ms}.{'.'.join(jobs[-MAX_JOBS:])}" if job else str(now_ms)
    cache.invalidate()
    response = RedirectResponse("/", 303)
    response.set_cookie(COOKIE, value, max_age=MAX_AGE_S, httponly=True, samesite="strict")
    return response
