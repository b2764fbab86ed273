"""Jobs and workers as rows of a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from subtitle.eta import Speed
from subtitle.messages import JobFacts, WorkerFacts
from subtitle.progress import ENDED, progress_of
from subtitled.web.health_summary import is_out
from subtitled.web.i18n import Translator
from subtitled.web.language_names import TONGUES

CANCELLABLE = frozenset({"receiving", "queued", "preparing", "transcribing"})


class JobViewModel(Struct, frozen=True, kw_only=True):
    """What is shown of one job."""

    id: str
    name: str
    path: str
    state: str
    details: tuple[str, ...]
    """What there is to say about it, the most telling first."""
    age: str
    cause: str
    is_under_way: bool
    fraction: float | None
    """How much of it is done; None where it is not known of how much."""
    percent: str
    can_retry: bool
    can_cancel: bool


class WorkerViewModel(Struct, frozen=True, kw_only=True):
    """What is shown of one worker."""

    slot: str
    device: str
    model: str
    """The device's name without its maker's: there is little room."""
    state: str
    sign: str
    jobs: tuple[tuple[str, str], ...]
    """(id, name) of those that it works on."""
    speed: str
    """Empty where it has none."""
    memory: str
    memory_fraction: float
    link: str
    """How far away it is, and what went over the network; empty for those of the daemon's own host."""
    cause: str


def name_of(job: JobFacts, voice: Translator) -> str:
    """Return what a person calls a job: its file's name."""
    return job.source.rpartition("/")[2] or voice("job.unnamed")


def job_row(job: JobFacts, voice: Translator) -> JobViewModel:
    """Return a job's row."""
    progress = progress_of(job)
    is_under_way = job.state not in ENDED | {"queued"}
    is_measured = bool(progress.size_bytes if job.state == "receiving" else progress.audio_ms)
    fraction = progress.fraction if is_measured else None
    return JobViewModel(
        id=job.id,
        name=name_of(job, voice),
        path=job.source,
        state=job.state,
        details=tuple(_details(job, voice)),
        age=voice.ago(job.ended_ms or job.created_ms),
        cause=job.cause,
        is_under_way=is_under_way,
        fraction=fraction,
        percent=voice.percent(fraction) if fraction is not None else "",
        can_retry=job.state == "failed",
        can_cancel=job.state in CANCELLABLE,
    )


def _details(job: JobFacts, voice: Translator) -> Iterable[str]:
    match job.state:
        case "receiving":
            part, whole = voice.size(job.received_bytes), voice.size(job.size)
            # Who sends without saying how much will come has a size of 0.
            yield (
                voice("job.received", part=part, whole=whole)
                if job.size
                else voice("job.received.so_far", part=part)
            )
        case "preparing":
            yield voice("job.read", time=voice.duration(job.decoded_ms))
        case _ if job.audio_ms:
            yield voice.duration(job.audio_ms)
        case _ if job.size:
            yield voice.size(job.size)
    if job.language:
        yield TONGUES.get(job.language, job.language)
    if job.state == "done" and job.started_ms and job.ended_ms and job.ended_ms > job.started_ms:
        took_ms = job.ended_ms - job.started_ms
        yield voice("job.took", time=voice.duration(took_ms), speed=voice.speed(job.audio_ms / took_ms))
    if job.owner:
        yield job.owner


def worker_row(
    worker: WorkerFacts, speed: Speed, names: Mapping[str, str], voice: Translator
) -> WorkerViewModel:
    """Return a worker's row; `names` of the jobs that may be under way, by id."""
    sign = {"idle": "done", "busy": "busy", "starting": "wait", "draining": "off"}.get(worker.state, "warn")
    times = speed.slots.get(worker.slot, 0.0) if worker.jobs else 0.0
    used, whole = worker.memory_used_bytes, worker.memory_total_bytes
    return WorkerViewModel(
        slot=worker.slot,
        device=worker.device,
        model=worker.device.removeprefix("NVIDIA ").removeprefix("GeForce "),
        state=worker.state,
        sign="bad" if is_out(worker) else sign,
        jobs=tuple((job, names.get(job, job)) for job in worker.jobs),
        speed=voice.speed(times) if times >= 0.05 else "",
        memory=voice("worker.memory", part=voice.size(used), whole=voice.size(whole)) if whole else "",
        memory_fraction=used / whole if whole else 0.0,
        link=_link(worker, voice) if worker.host else "",
        cause=worker.cause,
    )


def _link(worker: WorkerFacts, voice: Translator) -> str:
    far = f"{voice.number(worker.round_trip_ms)} ms"
    sent, got = voice.size(worker.sent_bytes), voice.size(worker.received_bytes)
    return voice("worker.link", time=far, sent=sent, got=got)
