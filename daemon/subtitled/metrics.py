"""Prometheus metrics of the daemon, and the port that serves them."""

from __future__ import annotations

from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from subtitled.errors import SubtitledError


class Metrics:
    """The daemon's metrics; values are set from the server's loop."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.model_loads = Counter(
            "subtitled_model_loads",
            "Models loaded, once in the life of each transcribe worker.",
            ["slot"],
            registry=self.registry,
        )
        self.segments = Counter(
            "subtitled_segments", "Segments by what became of them.", ["event"], registry=self.registry
        )
        self.jobs = Counter(
            "subtitled_jobs", "Jobs by what became of them.", ["event"], registry=self.registry
        )
        self.audio_seconds = Counter(
            "subtitled_audio_seconds", "Audio transcribed, in seconds.", ["slot"], registry=self.registry
        )
        self.lease_seconds = Histogram(
            "subtitled_lease_seconds",
            "Time that a worker decoded a lease, in seconds.",
            ["slot"],
            registry=self.registry,
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100),
        )
        self.worker_restarts = Counter(
            "subtitled_worker_restarts", "Worker processes started again.", ["slot"], registry=self.registry
        )
        self.workers = Gauge(
            "subtitled_workers", "Workers by role and state.", ["role", "state"], registry=self.registry
        )
        self.ready_segments = Gauge(
            "subtitled_ready_segments", "Segments that wait for a worker.", registry=self.registry
        )
        self.queued_bytes = Gauge(
            "subtitled_queued_bytes", "PCM in the daemon's memory.", registry=self.registry
        )
        self.uploads = Counter(
            "subtitled_uploads", "Uploads by what became of them.", ["event"], registry=self.registry
        )
        self.upload_bytes = Counter(
            "subtitled_upload_bytes", "Bytes of uploads received.", registry=self.registry
        )
        self.uploads_open = Gauge(
            "subtitled_uploads_open", "Uploads that are not complete.", registry=self.registry
        )
        self.spool_bytes = Gauge(
            "subtitled_spool_bytes", "Bytes kept for files that clients send.", registry=self.registry
        )
        self.refused_keys = Counter(
            "subtitled_refused_keys", "Connections with a key that is not allowed.", registry=self.registry
        )
        self.refused_requests = Counter(
            "subtitled_refused_requests",
            "Requests that were answered with an Error.",
            ["code"],
            registry=self.registry,
        )
        self.hung_up = Counter(
            "subtitled_hung_up",
            "Connections of clients that were ended because of their number, or the memory they took.",
            ["reason"],
            registry=self.registry,
        )
        self._server: WSGIServer | None = None

    def serve(self, endpoint: str) -> None:
        """Serve /metrics at `host:port` in a thread of its own; "" serves nothing.

        Raises SubtitledError when the port cannot be bound.
        """
        if not endpoint:
            return
        host, _, port = endpoint.rpartition(":")
        try:
            self._server, _ = start_http_server(int(port), addr=host.strip("[]"), registry=self.registry)
        except OSError as error:
            raise SubtitledError(
                f'listen.metrics = "{endpoint}": {error.strerror}; choose another port, or "" to turn metrics off'
            ) from error

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
