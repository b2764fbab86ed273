"""Which paths are the page's."""

from __future__ import annotations

from starlette.routing import Route

from subtitled.web import actions, assets, job_page, overview

_PREFIXES = ("/jobs/", "/static/", "/fragments/")
_PATHS = frozenset({"/", "/upload", "/retry-failed"})


def routes() -> list[Route]:
    """Return the page's routes."""
    return [
        Route("/", overview.show, methods=["GET"]),
        Route("/fragments/overview", overview.show_live, methods=["GET"]),
        Route("/jobs/{job}", job_page.show, methods=["GET"]),
        Route("/fragments/jobs/{job}", job_page.show_live, methods=["GET"]),
        Route("/jobs/{job}/retry", actions.retry, methods=["POST"]),
        Route("/jobs/{job}/cancel", actions.cancel, methods=["POST"]),
        Route("/retry-failed", actions.retry_all, methods=["POST"]),
        Route("/upload", actions.upload, methods=["POST"]),
        Route("/static/{name}", assets.serve, methods=["GET"]),
    ]


def is_page(path: str) -> bool:
    """Say whether who asks for a path is a person, who is told in a page what cannot be done."""
    return path in _PATHS or path.startswith(_PREFIXES)
