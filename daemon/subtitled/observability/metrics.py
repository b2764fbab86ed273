"""Prometheus metrics of the daemon."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from importlib.metadata import version
from platform import python_version

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from subtitled.core.protocol import ResultSummary
from subtitled.core.transcription import DecisionKind
from subtitled.observability.gpu import GpuCollector
from subtitled.version import VERSION

STAGE_BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 2.5, 10, 60, 300, 1800)
"""From feature extraction of a clip to decoding of a ten-hour file."""

_RATIO_BUCKETS = tuple(tenth / 10 for tenth in range(1, 11))


class ModelGauges(Struct, frozen=True, kw_only=True):
    """Present figures of a model."""

    name: str
    workers: int
    memory_bytes: int
    jobs: int


class Metrics:
    """The daemon's metrics, set by the server's loop; the stage "write" by the thread that writes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.model_loads = Counter(
            "subtitled_model_loads",
            "Models loaded: the default at the start of each transcribe worker, others when they are needed.",
            ["slot", "model"],
            registry=self.registry,
        )
        self.model_unloads = Counter(
            "subtitled_model_unloads",
            "Models unloaded: after the idle timeout, for an admin, or for another model.",
            ["slot", "model"],
            registry=self.registry,
        )
        self.model_load_seconds = Counter(
            "subtitled_model_load_seconds", "Time spent loading a model.", ["model"], registry=self.registry
        )
        self.model_leases = Counter(
            "subtitled_model_leases",
            "Leases sent to workers, by their model.",
            ["model"],
            registry=self.registry,
        )
        self.model_workers = Gauge(
            "subtitled_model_workers",
            "Workers that have a model in memory.",
            ["model"],
            registry=self.registry,
        )
        self.model_bytes = Gauge(
            "subtitled_model_bytes",
            "Memory that a model took at its last load; 0 if unknown.",
            ["model"],
            registry=self.registry,
        )
        self.model_jobs = Gauge(
            "subtitled_model_jobs",
            "Jobs that a model decodes and that have not ended.",
            ["model"],
            registry=self.registry,
        )
        self._model_names: set[str] = set()
        """Models that have gauges."""
        self._models_of: dict[str, set[str]] = {}
        """Models that have series of a slot."""
        self.sentences = Counter(
            "subtitled_translated_sentences",
            "Sentences by result (translated, untranslated) and model.",
            ["model", "result"],
            registry=self.registry,
        )
        self.translation_tokens = Counter(
            "subtitled_translation_tokens",
            "Tokens of input and output that translations took, by model.",
            ["model"],
            registry=self.registry,
        )
        self.waiting_sentences = Gauge(
            "subtitled_waiting_sentences", "Sentences that are not translated yet.", registry=self.registry
        )
        self.segments = Counter("subtitled_segments", "Segments by event.", ["event"], registry=self.registry)
        self.jobs = Counter("subtitled_jobs", "Jobs by event.", ["event"], registry=self.registry)
        self.audio_seconds = Counter(
            "subtitled_audio_seconds", "Audio transcribed.", ["slot"], registry=self.registry
        )
        self.lease_seconds = Histogram(
            "subtitled_lease_seconds",
            "Decoding time of a lease.",
            ["slot"],
            registry=self.registry,
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100),
        )
        self.window_fill = Histogram(
            "subtitled_window_fill_ratio",
            "Length of a leased segment as a share of the model's window.",
            registry=self.registry,
            buckets=_RATIO_BUCKETS,
        )
        self.batch_fill = Histogram(
            "subtitled_batch_fill_ratio",
            "Segments of a lease as a share of the worker's batch size.",
            ["slot"],
            registry=self.registry,
            buckets=_RATIO_BUCKETS,
        )
        self.languages = Counter(
            "subtitled_segment_languages",
            "Segments with speech by decoding language.",
            ["language"],
            registry=self.registry,
        )
        self.fallbacks = Counter(
            "subtitled_fallbacks",
            "Windows decoded again, by the failed check and the new temperature.",
            ["cause", "temperature"],
            registry=self.registry,
        )
        self.unheard_seconds = Counter(
            "subtitled_unheard_seconds",
            "Seconds of speech that got no text, also after another decoding.",
            registry=self.registry,
        )
        self.silences = Counter(
            "subtitled_silences_dropped",
            "Windows whose text was dropped as silence.",
            registry=self.registry,
        )
        self.loops = Counter(
            "subtitled_loops_cut",
            "Windows whose text was cut because it repeats itself.",
            registry=self.registry,
        )
        self.worker_restarts = Counter(
            "subtitled_worker_restarts", "Worker processes restarted.", ["slot"], registry=self.registry
        )
        self.workers = Gauge(
            "subtitled_workers", "Workers by role and state.", ["role", "state"], registry=self.registry
        )
        self.ready_segments = Gauge(
            "subtitled_ready_segments", "Segments waiting for a worker.", registry=self.registry
        )
        self.queued_bytes = Gauge(
            "subtitled_queued_bytes",
            "PCM audio in memory, shared with local workers.",
            registry=self.registry,
        )
        self.uploads = Counter("subtitled_uploads", "Uploads by event.", ["event"], registry=self.registry)
        self.upload_bytes = Counter(
            "subtitled_upload_bytes", "Upload bytes received.", registry=self.registry
        )
        self.uploads_open = Gauge("subtitled_uploads_open", "Incomplete uploads.", registry=self.registry)
        self.spool_bytes = Gauge(
            "subtitled_spool_bytes",
            "Bytes of uploaded files on the disk, with the announced sizes of incomplete uploads.",
            registry=self.registry,
        )
        self.refused_keys = Counter(
            "subtitled_refused_keys", "Connections refused because of an unknown key.", registry=self.registry
        )
        self.refused_requests = Counter(
            "subtitled_refused_requests",
            "Requests answered with an Error.",
            ["code"],
            registry=self.registry,
        )
        self.closed_connections = Counter(
            "subtitled_connections_closed",
            "Client connections that the daemon closed, by limit.",
            ["reason"],
            registry=self.registry,
        )
        self.retries = Counter(
            "subtitled_retries",
            "Repeated work: segments and files of lost workers, failed jobs retried by a user.",
            ["subject"],
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "subtitled_stage_seconds",
            "Duration of a stage: decode and vad of a file, features, transcribe and translate of a lease, write of a job.",
            ["stage"],
            registry=self.registry,
            buckets=STAGE_BUCKETS_S,
        )
        self.queue_audio_seconds = Gauge(
            "subtitled_queue_audio_seconds",
            "Audio of the segments waiting for a worker.",
            registry=self.registry,
        )
        self.oldest_ready_seconds = Gauge(
            "subtitled_oldest_ready_seconds",
            "Waiting time of the oldest segment waiting for a worker; 0 if none waits.",
            registry=self.registry,
        )
        self.busy_ratio = Gauge(
            "subtitled_worker_busy_ratio",
            "Share of the last minute in which the worker decoded (0 to 1).",
            ["slot"],
            registry=self.registry,
        )
        self.folder_hung = Gauge(
            "subtitled_folder_hung",
            "1 for an inbox or output folder that does not answer; no series for the others.",
            ["folder"],
            registry=self.registry,
        )
        self.worker_broken = Gauge(
            "subtitled_worker_broken",
            "1 for a worker that is broken or suspended after failures, else 0.",
            ["slot"],
            registry=self.registry,
        )
        self.worker_round_trip = Gauge(
            "subtitled_worker_round_trip_seconds",
            "Round-trip time to a worker on another host (moving average).",
            ["slot"],
            registry=self.registry,
        )
        self.worker_bytes = Counter(
            "subtitled_worker_bytes",
            "Bytes sent to and received from workers on other hosts.",
            ["slot", "direction"],
            registry=self.registry,
        )
        self._of_slots: tuple[Counter | Gauge | Histogram, ...] = (
            self.audio_seconds,
            self.lease_seconds,
            self.batch_fill,
            self.worker_restarts,
            self.busy_ratio,
            self.worker_broken,
            self.worker_round_trip,
        )
        self.gpus = GpuCollector(self.registry)
        build = Info(
            "subtitled_build", "Versions of the daemon, Python and the engine.", registry=self.registry
        )
        engines = {name.replace("-", "_"): version(name) for name in ("ctranslate2", "faster-whisper")}
        build.info({"version": VERSION, "python": python_version(), **engines})

    def remove_slot(self, slot: str) -> None:
        """Remove all series of a slot that no longer exists, such as that of a host that left."""
        models = self._models_of.pop(slot, ())
        for metric, values in (
            *((metric, (slot,)) for metric in self._of_slots),
            *((self.worker_bytes, (slot, direction)) for direction in ("sent", "received")),
            *(
                (metric, (slot, model))
                for metric in (self.model_loads, self.model_unloads)
                for model in models
            ),
        ):
            with contextlib.suppress(KeyError):
                metric.remove(*values)

    def count_load(self, slot: str, model: str, load_s: float) -> None:
        """Count a load of a model; `model` is its configured name."""
        self._models_of.setdefault(slot, set()).add(model)
        self.model_loads.labels(slot, model).inc()
        self.model_load_seconds.labels(model).inc(load_s)

    def count_unload(self, slot: str, model: str) -> None:
        """Count that a worker has unloaded a model."""
        self._models_of.setdefault(slot, set()).add(model)
        self.model_unloads.labels(slot, model).inc()

    def set_models(self, models: Iterable[ModelGauges]) -> None:
        """Set the gauges of all models; those of a removed one disappear."""
        models = list(models)
        names = {model.name for model in models}
        # The others stay: a scrape in another thread would miss them for a moment.
        for name in self._model_names - names:
            for gauge in (self.model_workers, self.model_bytes, self.model_jobs):
                gauge.remove(name)
        self._model_names = names
        for model in models:
            self.model_workers.labels(model.name).set(model.workers)
            self.model_bytes.labels(model.name).set(model.memory_bytes)
            self.model_jobs.labels(model.name).set(model.jobs)

    def count_results(self, results: Iterable[ResultSummary]) -> None:
        """Count the languages and decoding decisions of a finished lease."""
        for result in results:
            if result.is_speech:
                self.languages.labels(result.language).inc()
            self.unheard_seconds.inc(sum(end_ms - start_ms for start_ms, end_ms in result.unheard) / 1000)
            for decision in result.decisions:
                match decision.verdict:
                    case DecisionKind.FALLBACK:
                        self.fallbacks.labels(decision.cause, f"{decision.temperature:g}").inc()
                    case DecisionKind.SILENCE:
                        self.silences.inc()
                    case DecisionKind.LOOP:
                        self.loops.inc()

    def count_lease(self, slot: str, samples: Iterable[int], *, window_samples: int, batch_size: int) -> None:
        """Count the fill of a lease's windows and batch; `samples` are the lengths of its segments."""
        lengths = tuple(samples)
        for length in lengths:
            self.window_fill.observe(length / window_samples)
        self.batch_fill.labels(slot).observe(len(lengths) / batch_size)
