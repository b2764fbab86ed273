"""What the commands print for people."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from subtitle.messages import Event, JobFacts, StatsInfo, Step, WorkerFacts
from subtitle.progress_bars import megabytes


def jobs_table(jobs: Iterable[JobFacts]) -> Table:
    """Return a table with a line for each job."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("JOB", "STATE", "DONE", "LANGUAGE", "CREATED", "FILE"):
        table.add_column(name, no_wrap=name != "FILE")
    for job in jobs:
        done = sum(job.segments.get(state, 0) for state in ("done", "skipped"))
        total = sum(job.segments.values())
        created = dt.datetime.fromtimestamp(job.created_ms / 1000).astimezone()
        table.add_row(
            job.id,
            job.state,
            f"{done}/{total}" if total else "-",
            job.language or "-",
            f"{created:%Y-%m-%d %H:%M:%S}",
            job.source.rpartition("/")[2],
        )
    return table


def print_job(console: Console, job: JobFacts) -> None:
    """Print all that is known about one job."""
    done = sum(job.segments.get(state, 0) for state in ("done", "skipped"))
    rows = [
        ("job", job.id),
        ("state", job.state),
        ("file", job.source),
        ("task", job.task),
        ("language", job.language or "not known yet"),
        ("segments", f"{done} of {sum(job.segments.values())} finished"),
        ("audio", f"{job.audio_ms / 1000:.1f} s" if job.audio_ms else f"{job.decoded_ms / 1000:.1f} s read"),
    ]
    if job.started_ms and job.ended_ms:
        wall_s = (job.ended_ms - job.started_ms) / 1000
        speed = f" ({job.audio_ms / 1000 / wall_s:.1f}x realtime)" if wall_s > 0 else ""
        rows.append(("took", f"{wall_s:.1f} s{speed}"))
    rows += [("cause", job.cause)] if job.cause else []
    rows += [("output", path) for path in job.outputs]
    rows += [("missing", gap) for gap in job.missing]
    rows += [("history" if place == 0 else "", step_line(step)) for place, step in enumerate(job.history)]
    for name, value in rows:
        console.print(f"{name:>9}  {value}", markup=False, highlight=False, soft_wrap=True)


def step_line(step: Step) -> str:
    """Return a line for one entry of a job's history."""
    at = dt.datetime.fromtimestamp(step.at_ms / 1000).astimezone()
    what = f"segment {step.name} {step.event}" if step.subject == "segment" else step.event
    return f"{at:%Y-%m-%d %H:%M:%S} {what}, then {step.after}{f': {step.cause}' if step.cause else ''}"


def print_stats(console: Console, stats: StatsInfo) -> None:
    """Print workers and queue."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    has_hosts = any(worker.host for worker in stats.workers)
    for name in ("WORKER", "ROLE", "STATE", "DEVICE", "HOLDS", *(("LINK",) if has_hosts else ()), "CAUSE"):
        table.add_column(name)
    for worker in stats.workers:
        holds = worker.job or (
            f"{worker.leases} {'lease' if worker.leases == 1 else 'leases'}" if worker.leases else "-"
        )
        identity = f"{worker.slot}.{worker.incarnation}"
        table.add_row(
            *(identity, worker.role, worker.state, worker.device or "-", holds),
            *((_link(worker),) if has_hosts else ()),
            worker.cause or "-",
        )
    console.print(table)
    jobs = ", ".join(f"{count} {state}" for state, count in sorted(stats.jobs.items())) or "none"
    console.print(f"jobs: {jobs}", highlight=False)
    console.print(
        f"segments: {stats.ready_segments} ready, {stats.leased_segments} being transcribed; "
        f"{stats.audio_ms / 1000:.0f} s of audio transcribed in {stats.uptime_s:.0f} s",
        highlight=False,
    )


def _link(worker: WorkerFacts) -> str:
    """Return how far a worker on another host is away, and what went there and came back."""
    if not worker.host:
        return "-"
    sent, received = megabytes(worker.sent_bytes), megabytes(worker.received_bytes)
    return f"{worker.round_trip_ms:.1f} ms, {sent} out, {received} in"


def event_line(event: Event) -> str:
    """Return a journal entry as one line."""
    at = dt.datetime.fromtimestamp(event.at_ms / 1000).astimezone()
    name = f" {event.name}" if event.name else ""
    subject = f"{event.subject}{name}" + (f" of {event.job}" if event.subject == "segment" else "")
    subject = f"job {event.job}" if event.subject == "job" else subject
    cause = f"  {event.cause}" if event.cause else ""
    return f"{event.seq:>7} {at:%H:%M:%S} {subject}: {event.event} -> {event.after}{cause}"
