"""The HTTP port of /metrics, /healthz and /readyz."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from subtitled.errors import SubtitledError
from subtitled.observability.metrics import Metrics
from subtitled.observability.monitor import Health

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

REQUEST_S = 10.0
"""Timeout of an idle connection."""
MAX_CONNECTIONS = 32
"""Connections at a time; further ones are closed without an answer."""


class MetricsServer:
    """Serves the values that the loop published, in its own threads; an endpoint of "" serves nothing.

    Raises SubtitledError when the port cannot be bound.
    """

    def __init__(self, endpoint: str, metrics: Metrics, health: Health) -> None:
        self._metrics: WSGIApplication = make_wsgi_app(metrics.registry)
        self._health = health
        self._server = _listen(endpoint) if endpoint else None
        if self._server is not None:
            self._server.set_app(self._answer)
            self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
            self._thread.start()

    @property
    def port(self) -> int:
        """The bound port; 0 for none."""
        return self._server.server_port if self._server is not None else 0

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def _answer(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        match environ.get("PATH_INFO"):
            case "/healthz":
                return _health_response(self._health.liveness_fault, start)
            case "/readyz":
                return _health_response(self._health.readiness_fault, start)
            case "/" | "/metrics":
                return self._metrics(environ, start)
            case _:
                start("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
                return [b"not found; try /metrics, /healthz or /readyz\n"]


def _health_response(cause: Callable[[], str], start: StartResponse) -> Iterable[bytes]:
    text = " ".join(cause().split())
    start("503 Service Unavailable" if text else "200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text or 'ok'}\n".encode()]


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log nothing: probes arrive every few seconds."""


def _listen(endpoint: str) -> WSGIServer:
    host, _, port = endpoint.rpartition(":")
    host = host.strip("[]")

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True
        block_on_close = False
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        _slots = threading.BoundedSemaphore(MAX_CONNECTIONS)

        def verify_request(self, request: object, client_address: object) -> bool:  # noqa: ARG002 - socketserver calls it so
            """Return whether the connection gets a thread."""
            return self._slots.acquire(blocking=False)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            """Serve a connection in its own thread."""
            try:
                super().process_request_thread(request, client_address)
            finally:
                self._slots.release()

        def handle_error(self, request: object, client_address: object) -> None:
            """Ignore a connection that breaks off."""

    try:
        return Server((host, int(port)), _Handler)
    except OSError as error:
        raise SubtitledError(
            f'listen.metrics = "{endpoint}": {error.strerror}; choose another port, or "" to disable metrics'
        ) from error
