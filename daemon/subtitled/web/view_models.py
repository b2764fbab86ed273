"""View models of jobs and workers, and the health summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from subtitle.eta import Speed
from subtitle.messages import AudioTrack, JobFacts, ModelFacts, StatsInfo, WorkerFacts
from subtitle.progress import ENDED, progress_of
from subtitled.languages import UNDETERMINED, code_of
from subtitled.web.i18n import Translator

CANCELLABLE = frozenset({"receiving", "queued", "preparing", "transcribing"})
RECENT_MS = 24 * 3_600_000
WORKING = frozenset({"idle", "busy"})
RECOVERING = frozenset({"starting", "lost", "backoff"})
"""States that a worker leaves automatically."""


class JobViewModel(Struct, frozen=True, kw_only=True):
    """A row of the job list."""

    id: str
    name: str
    path: str
    state: str
    state_text: str
    details: tuple[str, ...]
    age: str
    cause: str
    is_running: bool
    fraction: float | None
    """Progress; None if the total is unknown."""
    percent: str
    can_retry: bool
    can_cancel: bool


class WorkerViewModel(Struct, frozen=True, kw_only=True):
    """A worker's panel."""

    slot: str
    device: str
    short_device: str
    """Without its vendor, to save space."""
    state: str
    icon: str
    jobs: tuple[tuple[str, str], ...]
    """(id, name) of the jobs in progress."""
    speed: str
    memory: str
    memory_fraction: float
    loading: str
    """The model that it loads; empty for none."""
    link: str
    """Round trip and traffic; empty for workers of the daemon's own host."""
    cause: str


class ModelViewModel(Struct, frozen=True, kw_only=True):
    """A line of the list of models."""

    name: str
    source: str
    is_default: bool
    icon: str
    state: str
    details: tuple[str, ...]
    downloaded: str
    """Bytes of its download; empty unless it is being downloaded."""
    download_fraction: float | None
    """None if the size is unknown."""
    cause: str


class HealthSummary(Struct, frozen=True, kw_only=True):
    """The state of the daemon in one sentence."""

    level: str
    """"ok", "warn" or "bad"."""
    message: str
    """Message key."""
    n: int = 0
    total: int = 0


def health_summary(stats: StatsInfo, failed: int, max_failed: int) -> HealthSummary:
    """Return the most severe problem; `failed` is the number of `recent_faults`, counted up to `max_failed`."""
    workers = [worker for worker in stats.workers if worker.role == "transcribe" and not worker.has_left]
    working = sum(worker.state in WORKING for worker in workers)
    broken = sum(is_not_working(worker) for worker in workers)
    total = len(workers)
    if stats.is_draining:
        return HealthSummary(level="warn", message="health.draining")
    if not workers:
        is_downloading = any(model.is_default and model.is_downloading for model in stats.models)
        message = "health.downloading" if is_downloading else "health.no_worker"
        return HealthSummary(level="warn", message=message)
    if broken == total:
        return HealthSummary(level="bad", message="health.none_working")
    if stats.is_state_lost:
        return HealthSummary(level="bad", message="health.state_lost")
    if stats.is_disk_full:
        return HealthSummary(level="bad", message="health.disk_full")
    if stats.hung_folders:
        return HealthSummary(level="bad", message="health.folder_hung", n=len(stats.hung_folders))
    if stats.is_paused:
        return HealthSummary(level="warn", message="health.paused")
    if broken:
        return HealthSummary(level="warn", message="health.not_working", n=broken, total=total)
    if not working:
        return HealthSummary(level="warn", message="health.starting")
    if working < total:
        return HealthSummary(level="warn", message="health.some_starting", n=total - working, total=total)
    if failed:
        message = "health.failed" if failed < max_failed else "health.failed_many"
        return HealthSummary(level="warn", message=message, n=failed)
    if stats.open_files:
        return HealthSummary(level="warn", message="health.file_open", n=len(stats.open_files))
    return HealthSummary(level="ok", message="health.ok")


def is_not_working(worker: WorkerFacts) -> bool:
    """Return whether a worker is idle for a reason that does not pass automatically."""
    return worker.state not in WORKING | RECOVERING | {"draining"}


def recently_failed(failed: Iterable[JobFacts], now_ms: float) -> tuple[JobFacts, ...]:
    """Return the jobs that failed in the last 24 hours and are not dismissed."""
    return tuple(job for job in failed if failed_ms(job) > now_ms - RECENT_MS and not job.is_dismissed)


def failed_ms(job: JobFacts) -> int:
    """Return when a failed job has failed, in milliseconds since 1970."""
    return job.ended_ms or job.created_ms


def recent_faults(failed: Iterable[JobFacts]) -> tuple[JobFacts, ...]:
    """Return the jobs that are no mistake of a user: a file without any audio to plan, such as a text file, is one."""
    return tuple(job for job in failed if job.segments)


def name_of(job: JobFacts, t: Translator) -> str:
    """Return the name of the job's file."""
    return job.source.rpartition("/")[2] or t("job.unnamed")


def job_row(job: JobFacts, t: Translator, position: int = 0, *, has_models: bool = False) -> JobViewModel:
    """Return a job's row; `position` in the queue is counted from 1, 0 if unknown; `has_models`: include its model."""
    progress = progress_of(job)
    has_total = bool(progress.size_bytes if job.state == "receiving" else progress.audio_ms)
    fraction = progress.fraction if has_total else None
    return JobViewModel(
        id=job.id,
        name=name_of(job, t),
        path=job.source,
        state=job.state,
        state_text=(
            t("state.queued_position", position=t.ordinal(position))
            if position and job.state == "queued"
            else t.lookup("state", job.state)
        ),
        details=(*_details(job, t), *([job.model] if has_models and job.model else [])),
        age=t.ago(job.ended_ms or job.created_ms),
        cause=job.cause,
        is_running=job.state not in ENDED | {"queued"},
        fraction=fraction,
        percent=t.percent(fraction) if fraction is not None else "",
        can_retry=job.state == "failed",
        can_cancel=job.state in CANCELLABLE,
    )


def _details(job: JobFacts, t: Translator) -> Iterable[str]:
    match job.state:
        case "receiving":
            part = t.size(job.received_bytes)
            # The size of a streamed upload is 0 until it is complete.
            has_size = job.size > 0
            yield (
                t("job.received", part=part, total=t.size(job.size))
                if has_size
                else t("job.received_unknown", part=part)
            )
        case "preparing":
            yield t("job.decoded", time=t.duration(job.decoded_ms))
        case _ if job.audio_ms:
            yield t.duration(job.audio_ms)
        case _ if job.size:
            yield t.size(job.size)
    if job.language:
        yield t.language_name(job.language)
    if job.state == "done" and job.started_ms and job.ended_ms and job.ended_ms > job.started_ms:
        took_ms = job.ended_ms - job.started_ms
        yield t("job.took", time=t.duration(took_ms), speed=t.speed(job.audio_ms / took_ms))
    if job.tag.endswith("/"):
        yield job.tag
    if job.unheard_count:
        yield t("job.mark_unheard", n=job.unheard_count)
    if job.damaged:
        yield t("job.mark_damaged")
    if job.owner:
        yield job.owner


def worker_row(worker: WorkerFacts, speed: Speed, names: Mapping[str, str], t: Translator) -> WorkerViewModel:
    """Return a worker's panel; `names` are those of running jobs by id."""
    icon = {"idle": "done", "busy": "busy", "starting": "wait", "draining": "off"}.get(worker.state, "warn")
    factor = speed.slots.get(worker.slot, 0.0) if worker.jobs else 0.0
    used, total = worker.memory_used_bytes, worker.memory_total_bytes
    return WorkerViewModel(
        slot=worker.slot,
        device=worker.device,
        short_device=worker.device.removeprefix("NVIDIA ").removeprefix("GeForce "),
        state=worker.state,
        icon="bad" if is_not_working(worker) else icon,
        jobs=tuple((job, names.get(job, job)) for job in worker.jobs),
        speed=t.speed(factor) if factor >= 0.05 else "",
        memory=t("worker.memory", part=t.size(used), total=t.size(total)) if total else "",
        memory_fraction=used / total if total else 0.0,
        loading=worker.loading if worker.loading not in worker.models else "",
        link=_link(worker, t) if worker.host else "",
        cause=worker.cause,
    )


def model_row(model: ModelFacts, t: Translator) -> ModelViewModel:
    """Return a model's line."""
    icons = {"loaded": "done", "not_loaded": "off", "downloading": "wait"}
    details = [t("model.on", slots=", ".join(model.slots))] if model.slots else []
    details += [t("model.memory", size=t.size(model.memory_bytes))] if model.memory_bytes else []
    details += [t("track.separator").join(map(t.language_name, model.languages))] if model.languages else []
    details += [t("model.jobs", n=model.jobs)] if model.jobs else []
    part, total = model.downloaded_bytes, model.download_bytes
    downloaded = t("worker.memory", part=t.size(part), total=t.size(total)) if total else t.size(part)
    return ModelViewModel(
        name=model.name,
        source=model.source,
        is_default=model.is_default,
        icon=icons.get(model.state, "bad"),
        state=model.state,
        details=tuple(details),
        downloaded=downloaded if model.is_downloading else "",
        download_fraction=part / total if total else None,
        cause=model.cause,
    )


def track_summary(track: AudioTrack, t: Translator) -> str:
    """Return an audio track in a few words."""
    language = "" if track.language.lower() in UNDETERMINED else track.language
    details = [
        (language and t.language_name(code_of(language) or language)) or t("track.no_language"),
        t("track.title", title=track.title) if track.title else "",
        t("track.channels", n=track.channels),
        *(t.lookup("track.flag", flag) for flag in track.flags),
    ]
    return t("track.summary", number=track.number, details=t("track.separator").join(filter(None, details)))


def _link(worker: WorkerFacts, t: Translator) -> str:
    return t(
        "worker.link",
        time=f"{t.number(worker.round_trip_ms)} ms",
        sent=t.size(worker.sent_bytes),
        received=t.size(worker.received_bytes),
    )
