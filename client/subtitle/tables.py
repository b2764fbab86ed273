"""Tables and lines that the commands print."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from subtitle.eta import EtaEstimator, QueueSnapshot, Speed, estimate
from subtitle.messages import CueVersion, Event, JobFacts, ModelFacts, StatsInfo, Step, Welcome, WorkerFacts
from subtitle.progress import progress_of
from subtitle.progress_bars import clock, megabytes


def print_jobs(jobs: Sequence[JobFacts]) -> None:
    """Print a table with a line for each job; on a terminal, file names are shortened to its width."""
    heads = ("JOB", "STATE", "DONE", "LANG", f"CREATED ({time.strftime('%Z')})", "FILE")
    _print_lines(heads, [_job_cells(job) for job in jobs])


def print_queue(jobs: Sequence[JobFacts]) -> None:
    """Print a table with a line for each job that has not ended, with its position and priority."""
    heads = ("POSITION", "JOB", "STATE", "PRIORITY", "MODEL", "FILE")
    cells = [
        (
            str(job.position or "-"),
            job.id,
            job.state,
            str(job.priority),
            job.model or "-",
            job.source.rpartition("/")[2],
        )
        for job in jobs
    ]
    _print_lines(heads, cells)


def _print_lines(heads: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> None:
    console = Console()
    widths = [max(len(row[place]) for row in [heads, *cells]) for place in range(len(heads))]
    room = console.width - sum(widths[:-1]) - 2 * (len(heads) - 1)
    for row in [heads, *cells]:
        file = elided(row[-1], room) if console.is_terminal else row[-1]
        fixed = "  ".join(f"{cell:<{width}}" for cell, width in zip(row[:-1], widths, strict=False))
        console.print(Text(f"{fixed}  {file}"), soft_wrap=True, style="bold" if row is heads else "")


def print_versions(versions: Sequence[CueVersion]) -> None:
    """Print a table with a line for each saved version of a job's cues."""
    console = Console()
    if not versions:
        console.print("no edits; the subtitles are the model's")
        return
    table = Table(box=None, pad_edge=False)
    for head in ("VERSION", "SAVED", "BY", "CUES"):
        table.add_column(head, no_wrap=True)
    for one in versions:
        saved = dt.datetime.fromtimestamp(one.saved_ms / 1000).astimezone()
        cues = str(one.cues) if one.restored is None else f"version {one.restored} restored"
        table.add_row(str(one.version), f"{saved:%Y-%m-%d %H:%M:%S}", Text(one.author or "-"), cues)
    console.print(table)


def elided(name: str, width: int) -> str:
    """Return a name with its middle replaced by an ellipsis if it is wider; never less than 8 characters."""
    room = max(width, 8)
    tail = (room - 1) // 2
    return name if len(name) <= room else f"{name[: room - 1 - tail]}…{name[-tail:]}"


def _job_cells(job: JobFacts) -> tuple[str, ...]:
    done = sum(job.segments.get(state, 0) for state in ("done", "skipped"))
    total = sum(job.segments.values())
    created = dt.datetime.fromtimestamp(job.created_ms / 1000).astimezone()
    is_this_year = created.year == dt.datetime.now(created.tzinfo).year
    return (
        job.id,
        job.state,
        f"{done}/{total}" if total else "-",
        job.language or "-",
        f"{created:%b %d %H:%M}" if is_this_year else f"{created:%Y-%m-%d}",
        job.source.rpartition("/")[2],
    )


def print_job(console: Console, job: JobFacts) -> None:
    """Print all facts about one job."""
    done = sum(job.segments.get(state, 0) for state in ("done", "skipped"))
    rows = [
        ("job", job.id),
        ("state", job.state),
        ("file", job.source),
        ("task", ", ".join(job.tasks) or job.task),
        *(
            [("model", f"{job.model} ({job.model_reason})" if job.model_reason else job.model)]
            if job.model
            else []
        ),
        ("language", job.language or "not known yet"),
        ("segments", f"{done} of {sum(job.segments.values())} finished"),
        ("audio", f"{job.audio_ms / 1000:.1f} s" if job.audio_ms else f"{job.decoded_ms / 1000:.1f} s read"),
    ]
    if job.audio is not None:
        fallback = f", {job.audio.fallback} where it has no speech" if job.audio.fallback else ""
        used = [track.summary for track in job.audio.used] or [str(job.audio.track)]
        rows += [("track", f"{summary}; mix: {job.audio.mix}{fallback}") for summary in used]
        rows += [("not used", f"track {track.summary}") for track in job.audio.others]
    if job.started_ms and job.ended_ms:
        wall_s = (job.ended_ms - job.started_ms) / 1000
        is_whole = job.state == "done" and wall_s > 0  # a cancelled job has not transcribed all of its audio
        speed = f" ({job.audio_ms / 1000 / wall_s:.1f}x real time)" if is_whole else ""
        rows.append(("took", f"{wall_s:.1f} s{speed}"))
    rows += [("cause", job.cause)] if job.cause else []
    rows += [("output", path) for path in job.outputs]
    rows += [("missing", span_line(span)) for span in job.missing]
    rows += [("unheard", span_line(span)) for span in job.unheard]
    rows += [("damaged", damage_line(start_s, end_s)) for start_s, end_s in job.damaged]
    rows += [("history" if place == 0 else "", step_line(step)) for place, step in enumerate(job.history)]
    for name, value in rows:
        console.print(f"{name:>9}  {value}", markup=False, highlight=False, soft_wrap=True)


def span_line(span: str) -> str:
    """Return a line for an element of `JobFacts.missing` or `JobFacts.unheard`."""
    start_ms, end_ms, cause = span.split(" ", 2)
    return f"{time_with_tenths(int(start_ms))} to {time_with_tenths(int(end_ms))}: {cause}"


def damage_line(start_s: float, end_s: float) -> str:
    """Return a line for an element of `JobFacts.damaged`."""
    return f"{time_with_tenths(round(start_s * 1000))} to {time_with_tenths(round(end_s * 1000))}: the file is damaged or cut, this audio is lost"


def time_with_tenths(time_ms: int) -> str:
    """Return a position in a file as text: 1:02:03.4, or 2:03.4."""
    minutes, rest_ms = divmod(time_ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest_ms // 1000:02}.{rest_ms // 100 % 10}"
    return f"{hours}:{minutes:02}:{seconds}" if hours else f"{minutes}:{seconds}"


def step_line(step: Step) -> str:
    """Return a line for one entry of a job's history."""
    at = dt.datetime.fromtimestamp(step.at_ms / 1000).astimezone()
    what = f"segment {step.name} {step.event}" if step.subject == "segment" else step.event
    return f"{at:%Y-%m-%d %H:%M:%S %Z} {what}, then {step.after}{f': {step.cause}' if step.cause else ''}"


def print_stats(console: Console, stats: StatsInfo) -> None:
    """Print workers and queue."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    has_hosts = any(worker.host for worker in stats.workers)
    has_models = len(stats.models) > 1
    more = (*(("MODELS",) if has_models else ()), *(("LINK",) if has_hosts else ()))
    for name in ("WORKER", "ROLE", "STATE", "DEVICE", "HOLDS", *more, "CAUSE"):
        table.add_column(name)
    for worker in stats.workers:
        identity = f"{worker.slot}.{worker.incarnation}"
        table.add_row(
            *(identity, worker.role, worker.state, worker.device or "-", _holds(worker)),
            *((_models_of(worker),) if has_models else ()),
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
    for model in stats.models:
        if model.is_downloading or model.cause:
            console.print(model_line(model), highlight=False, markup=False)
    if stats.is_state_lost:
        console.print(
            "the server's state folder was deleted: it accepts no new work until it is restarted",
            style="bold red",
        )
    for file in stats.open_files:
        console.print(
            f"{_printable(file.path)} has been open for writing for {file.seconds} s by "
            f"{_printable(file.process) or 'a process'}: it waits until it is closed",
            style="yellow",
            highlight=False,
            markup=False,
        )
    for folder in stats.hung_folders:
        name = _printable(folder.path) or "a folder"
        console.print(
            f"{name} has not answered for {folder.seconds} s: check its mount; its files wait",
            style="bold red",
            highlight=False,
            markup=False,
        )


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _holds(worker: WorkerFacts) -> str:
    leases = f"{worker.leases} {'lease' if worker.leases == 1 else 'leases'}" if worker.leases else "-"
    return worker.job or leases


def _models_of(worker: WorkerFacts) -> str:
    """Return the models that a worker holds, and the one that it loads."""
    loading = f"loading {worker.loading}" if worker.loading and worker.loading not in worker.models else ""
    return ", ".join([*worker.models, *([loading] if loading else [])]) or "-"


def model_state(model: ModelFacts) -> str:
    """Return whether a model is usable, in a few words."""
    share = _share_downloaded(model) if model.is_downloading else ""
    return f"{model.state.replace('_', ' ')}{share}"


def _share_downloaded(model: ModelFacts) -> str:
    if not model.downloaded_bytes:
        return ""
    if not model.download_bytes:
        return f" {megabytes(model.downloaded_bytes)}"
    share = 100 * model.downloaded_bytes // model.download_bytes
    return f" {share} % of {megabytes(model.download_bytes)}"


def model_line(model: ModelFacts) -> str:
    """Return a line about a model that cannot be used now."""
    cause = f": {model.cause}" if model.cause else ""
    return f"model {model.name}: {model_state(model)}{cause}"


def model_note(model: ModelFacts) -> str:
    """Return a line about a model that workers keep, or that cannot be used now; "" for another one."""
    if model.cause:
        return model_line(model)
    if model.preload:
        count = f"{model.keepers} of {model.preload} worker{'s' if model.preload > 1 else ''}"
        who = "an admin has requested" if model.is_requested else "configured"
        cause = f": {model.preload_cause}" if model.preload_cause else ""
        return f"model {model.name}: kept by {count}, as {who}{cause}"
    is_unloaded = model.is_requested and not model.slots
    return f"model {model.name}: unloaded by an admin, until a job needs it" if is_unloaded else ""


def _link(worker: WorkerFacts) -> str:
    """Return how far a worker on another host is away, and what went there and came back."""
    if not worker.host:
        return "-"
    sent, received = megabytes(worker.sent_bytes), megabytes(worker.received_bytes)
    return f"{worker.round_trip_ms:.1f} ms, {sent} out, {received} in"


def event_line(event: Event, name: str) -> str:
    """Return a journal entry as a sentence; `name`: of the job's file."""
    at = dt.datetime.fromtimestamp(event.at_ms / 1000).astimezone()
    cause = f": {event.cause}" if event.cause else ""
    match event.subject:
        case "job":
            text = f"{name}: {_JOB_EVENTS.get(event.event) or _JOB_STATES.get(event.after, event.after)}"
        case "segment":
            text = f"{name}: segment {event.name} {_SEGMENT_EVENTS.get(event.event, event.event)}"
        case subject:
            text = f"{subject} {event.name} is {event.after}"
    return f"{at:%H:%M:%S %Z}  {text}{cause}"


def end_line(job: JobFacts) -> str:
    """Return the result of an ended job as a sentence."""
    ended = dt.datetime.fromtimestamp((job.ended_ms or job.created_ms) / 1000).astimezone()
    cause = f": {job.cause}" if job.cause else ""
    return f"{ended:%H:%M:%S %Z}  {job.source.rpartition('/')[2]}: {_JOB_STATES.get(job.state, job.state)}{cause}"


_JOB_STATES = {
    "receiving": "upload started",
    "queued": "queued",
    "preparing": "reading the file",
    "transcribing": "transcribing",
    "writing": "writing the subtitles",
    "translating": "translating the subtitles",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}
_JOB_EVENTS = {
    "uploaded": "upload complete, queued",
    "expired": "upload expired, cancelled",
    "no_speech": "no speech found, writing empty subtitles",
    "already_subtitled": "has subtitles already",
    "lost": "its decoder was lost, queued again",
    "retry": "retried, queued",
    "translate": "transcript written, translating the subtitles",
    "translated": "translated",
}
_SEGMENT_EVENTS = {
    "planned": "found",
    "leased": "sent to a worker",
    "done": "transcribed",
    "skipped": "skipped: too short",
    "lost": "lost with its worker, will be retried",
    "exhausted": "failed",
    "transcribed": "will be translated by another model",
    "language_changed": "will be transcribed again in the file's language",
    "retried": "will be retried",
    "dropped": "dropped",
}


def screen(
    welcome: Welcome, now: QueueSnapshot, speed: Speed, *, max_jobs: int | None = None
) -> RenderableType:
    """Return the screen of `subtitle top`, with `max_jobs` jobs at most."""
    stats = now.stats
    since_start = stats.audio_ms / 1000 / stats.uptime_s if stats.uptime_s > 0 else 0.0
    current = f"{speed.total:.1f}x real time now, " if speed.total is not None else ""
    head = Text(f"subtitled {welcome.server}", style="bold")
    head.append(
        f"  {welcome.model}, up {clock(stats.uptime_s)}; {current}{since_start:.1f}x since the start",
        style="not bold",
    )
    counts = ", ".join(f"{stats.jobs[state]} {state}" for state in stats.jobs if stats.jobs[state])
    queue = Text(
        f"segments: {stats.ready_segments} queued, "
        f"{stats.leased_segments} being transcribed; {megabytes(stats.queued_bytes)} in memory\n"
        f"uploads: {stats.uploads}, {megabytes(stats.spool_bytes)} on disk\n"
        f"remaining: {remaining(estimate(stats, speed, now.jobs))}\n"
        f"jobs: {counts or 'none'}"
    )
    parts: list[RenderableType] = [head, queue, Text(), workers_table(stats, speed)]
    if stats.has_several_models:
        parts += [Text(), models_table(stats.models)]
    if now.jobs:
        shown = now.jobs if max_jobs is None else now.jobs[: max(1, max_jobs)]
        parts += [Text(), running_table(shown)]
        if len(shown) < len(now.jobs):
            parts.append(Text(f"and {len(now.jobs) - len(shown)} more", style="dim"))
    return Group(*parts)


def remaining(left: EtaEstimator) -> str:
    """Return the remaining work and its duration in words."""
    if left.finish_s == 0:
        return "nothing"
    files = f"{left.unread_files} {'file' if left.unread_files == 1 else 'files'} not read yet"
    unread = f", {files}" if left.unread_files else ""
    end = f", done in about {clock(left.finish_s)}" if left.finish_s is not None else ""
    return f"{clock(left.waiting_ms / 1000)} of audio{unread}{end}"


def models_table(models: Sequence[ModelFacts]) -> Table:
    """Return a table with a line for each model."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, width in (("MODEL", 10), ("STATE", 11), ("LANG", 4), ("TASKS", 10), ("WORKERS", 4)):
        table.add_column(name, min_width=width, overflow="fold")
    for name in ("MEMORY", "LOADS", "JOBS"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("SOURCE", min_width=8, overflow="fold")
    for model in models:
        table.add_row(
            Text(f"{model.name} (default)" if model.is_default else model.name),
            model_state(model),
            " ".join(model.languages) or "-",
            " ".join(model.tasks) or "-",
            " ".join(model.slots) or "-",
            megabytes(model.memory_bytes) if model.memory_bytes else "-",
            str(model.loads),
            str(model.jobs),
            Text(model.source),
        )
    return table


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
        slot = speed.slots.get(worker.slot)
        is_transcriber = worker.role == "transcribe"
        used, whole = worker.memory_used_bytes, worker.memory_total_bytes
        table.add_row(
            Text(worker.slot),
            worker.role,
            Text(worker.state, style=_STYLES.get(worker.state, "")),
            Text(worker.device or "-"),
            f"{megabytes(used)} of {megabytes(whole)}" if whole else "-",
            Text(_holds(worker)),
            f"{slot:.1f}x" if slot is not None and is_transcriber else "-",
            *(_link_cells(worker) if has_hosts else ()),
            Text(worker.cause or "-"),
        )
    return table


def _link_cells(worker: WorkerFacts) -> tuple[str, str, str]:
    """Return the cells about the connection to a worker on another host."""
    if not worker.host:
        return "-", "-", "-"
    return f"{worker.round_trip_ms:.1f} ms", megabytes(worker.sent_bytes), megabytes(worker.received_bytes)


def running_table(jobs: Sequence[JobFacts]) -> Table:
    """Return a table with a line and a bar for each job."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    # Only the file name is shortened.
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
