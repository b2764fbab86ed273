"""The live table of workers, queue and jobs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from subtitle.eta import EtaEstimator, QueueSnapshot, Speed, outlook
from subtitle.messages import JobFacts, StatsInfo, Welcome, WorkerFacts
from subtitle.progress import progress_of
from subtitle.progress_bars import clock, megabytes

RUNNING = ("receiving", "queued", "preparing", "transcribing", "writing")
MAX_JOBS = 200


def screen(
    welcome: Welcome, now: QueueSnapshot, speed: Speed, *, max_jobs: int | None = None
) -> RenderableType:
    """Return the whole picture; no more than `max_jobs` jobs, which a terminal has lines for."""
    stats = now.stats
    since_start = stats.audio_ms / 1000 / stats.uptime_s if stats.uptime_s > 0 else 0.0
    current = f"{speed.total:.1f}x realtime now, " if speed.total is not None else ""
    head = Text(f"subtitled {welcome.server}", style="bold")
    head.append(
        f"  {welcome.model}, up {clock(stats.uptime_s)}; {current}{since_start:.1f}x since the start",
        style="not bold",
    )
    counts = ", ".join(f"{stats.jobs[state]} {state}" for state in stats.jobs if stats.jobs[state])
    queue = Text(
        f"segments: {stats.ready_segments} wait, "
        f"{stats.leased_segments} are transcribed; {megabytes(stats.queued_bytes)} in memory\n"
        f"uploads: {stats.uploads}, {megabytes(stats.spool_bytes)} on disk\n"
        f"to do: {to_do(outlook(stats, speed, now.jobs))}\n"
        f"jobs: {counts or 'none'}"
    )
    parts: list[RenderableType] = [head, queue, Text(), workers_table(stats, speed)]
    if now.jobs:
        shown = now.jobs if max_jobs is None else now.jobs[: max(1, max_jobs)]
        parts += [Text(), running_table(shown)]
        if len(shown) < len(now.jobs):
            parts.append(Text(f"and {len(now.jobs) - len(shown)} more", style="dim"))
    return Group(*parts)


def to_do(left: EtaEstimator) -> str:
    """Return what is still to be done, and until when, in words."""
    if left.finish_s == 0:
        return "nothing"
    files = f"{left.unread_files} {'file' if left.unread_files == 1 else 'files'} not read yet"
    unread = f", {files}" if left.unread_files else ""
    end = f", done in about {clock(left.finish_s)}" if left.finish_s is not None else ""
    return f"{clock(left.waiting_ms / 1000)} of audio{unread}{end}"


def workers_table(stats: StatsInfo, speed: Speed) -> Table:
    """Return a table with a line for each worker slot."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("WORKER", "ROLE", "STATE", "DEVICE", "MEMORY", "HOLDS"):
        table.add_column(name, no_wrap=True)
    table.add_column("SPEED", justify="right", no_wrap=True)
    has_hosts = any(worker.host for worker in stats.workers)
    for name in ("ROUND TRIP", "SENT", "RECEIVED") if has_hosts else ():
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("CAUSE", no_wrap=True, overflow="ellipsis")
    for worker in stats.workers:
        holds = worker.job or (
            f"{worker.leases} {'lease' if worker.leases == 1 else 'leases'}" if worker.leases else "-"
        )
        slot = speed.slots.get(worker.slot)
        is_transcriber = worker.role == "transcribe"
        used, whole = worker.memory_used_bytes, worker.memory_total_bytes
        table.add_row(
            Text(worker.slot),
            worker.role,
            Text(worker.state, style=_STYLES.get(worker.state, "")),
            Text(worker.device or "-"),
            f"{megabytes(used)} of {megabytes(whole)}" if whole else "-",
            Text(holds),
            f"{slot:.1f}x" if slot is not None and is_transcriber else "-",
            *(_link(worker) if has_hosts else ()),
            Text(worker.cause or "-"),
        )
    return table


def _link(worker: WorkerFacts) -> tuple[str, str, str]:
    """Return the cells that tell how far a worker is away, and what went there and came back."""
    if not worker.host:
        return "-", "-", "-"
    return f"{worker.round_trip_ms:.1f} ms", megabytes(worker.sent_bytes), megabytes(worker.received_bytes)


def running_table(jobs: Sequence[JobFacts]) -> Table:
    """Return a table with a line and a bar for each job."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    # A long file name is cut, not the others.
    for name, width in (("JOB", 16), ("STATE", 12), ("", 16), ("DONE", 7), ("OWNER", 5)):
        table.add_column(name, no_wrap=True, min_width=width)
    table.add_column("FILE", no_wrap=True, overflow="ellipsis")
    for job in jobs:
        progress = progress_of(job)
        done = f"{progress.segments_done}/{progress.segments_total}" if progress.segments_total else "-"
        if job.state == "receiving":
            done = f"{megabytes(progress.uploaded_bytes)}"
        table.add_row(
            job.id,
            job.state,
            ProgressBar(total=1.0, completed=progress.fraction, width=16),
            done,
            Text(job.owner or "-"),
            Text(job.source.rpartition("/")[2]),
        )
    return table


_STYLES = {"busy": "green", "broken": "red", "lost": "red", "backoff": "yellow", "starting": "yellow"}
